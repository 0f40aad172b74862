//! Diagnoses a server without changing it. Does not read any project; `status` does that.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};

use super::connect::Route;
use super::{OWN, PostgresStore};
use crate::error::Result;
use crate::store::{Finding, Inspect as _};

#[derive(QueryableByName)]
#[expect(clippy::struct_excessive_bools, reason = "a row of a query")]
struct ServerInfo {
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Text)]
    role: String,
    #[diesel(sql_type = Bool)]
    is_superuser: bool,
    #[diesel(sql_type = Bool)]
    may_create: bool,
    #[diesel(sql_type = Bool)]
    public_is_open: bool,
    #[diesel(sql_type = Bool)]
    encrypted: bool,
    #[diesel(sql_type = BigInt)]
    slots: i64,
    #[diesel(sql_type = BigInt)]
    used: i64,
    #[diesel(sql_type = BigInt)]
    own: i64,
}

const SERVER_INFO: &str = "SELECT current_setting('server_version') AS version, current_user::text AS role,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    coalesce(has_schema_privilege('public', to_regnamespace('public'), 'CREATE'), false) AS public_is_open,
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
    current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint AS slots,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
    (SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, $1) AND nspname <> 'tenantry_journal') AS own";

#[derive(QueryableByName)]
struct Citus {
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Bool)]
    distributes_schemas: bool,
}

const CITUS: &str = "SELECT extversion AS version,
    coalesce(current_setting('citus.enable_schema_based_sharding', true), 'off') = 'on' AS distributes_schemas
    FROM pg_extension WHERE extname = 'citus'";

/// What there is to say of Citus, which can distribute schemas from version 12 on.
fn describe_citus(citus: &Citus) -> Finding {
    let Citus { version, distributes_schemas } = citus;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok()).unwrap_or_default();
    let (ok, what) = match (major, distributes_schemas) {
        (..12, _) => (false, "it cannot distribute schemas; use version 12 or later"),
        (_, true) => (true, "each new project's schema is on one worker"),
        (_, false) => (
            false,
            "new projects stay on the coordinator: ALTER DATABASE ... SET citus.enable_schema_based_sharding = on",
        ),
    };
    Finding { name: "citus", ok, detail: format!("version {version}: {what}") }
}

pub(super) fn diagnose(store: &PostgresStore) -> Vec<Finding> {
    server_findings(store)
        .unwrap_or_else(|error| vec![Finding { name: "server", ok: false, detail: error.summary() }])
}

fn server_findings(store: &PostgresStore) -> Result<Vec<Finding>> {
    let mut pooled = store.connections.get()?;
    let link = pooled.connection()?;
    let info: ServerInfo = diesel::sql_query(SERVER_INFO)
        .bind::<Text, _>(OWN)
        .get_result(&mut link.connection)
        .map_err(|error| super::failure::convert_error("cannot query the server", store.target(), &error))?;
    let citus: Option<Citus> = diesel::sql_query(CITUS)
        .get_result(&mut link.connection)
        .optional()
        .map_err(|error| super::failure::convert_error("cannot query the server", store.target(), &error))?;
    let leftovers = super::leftovers::find_leftovers(link).map_err(|error| {
        super::failure::convert_error("cannot look for leftovers", store.target(), &error)
    })?;
    let route = match link.server.route {
        Route::Direct => "reached directly",
        Route::ViaPooler => {
            "reached through a pooler: migrations outside a transaction need a direct connection"
        }
    };
    let encrypted = if info.encrypted { "encrypted" } else { "not encrypted" };
    let server = format!("Postgres {}, {route}, {encrypted}", info.version);
    let may = if info.may_create { "may create schemas" } else { "may not create schemas" };
    let superuser = if info.is_superuser { ", a superuser" } else { "" };
    let mut findings = vec![
        Finding { name: "server", ok: true, detail: server },
        Finding {
            name: "role",
            ok: info.may_create,
            detail: format!("{}{superuser}, {may} in this database", info.role),
        },
        Finding {
            name: "slots",
            ok: info.used < info.slots,
            detail: format!("{} of {} connections in use", info.used, info.slots),
        },
        Finding {
            name: "public",
            ok: !info.public_is_open,
            detail: if info.public_is_open {
                "every role may create objects in the schema public: REVOKE CREATE ON SCHEMA public FROM PUBLIC".into()
            } else {
                "not every role may create objects in the schema public".into()
            },
        },
    ];
    findings.extend(citus.as_ref().map(describe_citus));
    findings.push(Finding {
        name: "leftovers",
        ok: leftovers.is_empty(),
        detail: match leftovers.first() {
            None => "none".into(),
            Some(_) => format!(
                "from killed or running processes; tenantry doctor --clean removes those of killed ones: {}",
                leftovers.join(", ")
            ),
        },
    });
    drop(pooled);
    let found = store.discover()?;
    findings.push(Finding {
        name: "projects",
        ok: found.skipped.is_empty(),
        detail: format!(
            "{} named {}, {} skipped, {} private to tenantry",
            found.projects.len(),
            store.options.pattern,
            found.skipped.len(),
            info.own
        ),
    });
    Ok(findings)
}
