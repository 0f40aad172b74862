//! What can be said of a server without changing it.
//!
//! It must not open a project: `status` does that.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};

use super::connect::Route;
use super::{OWN, PostgresStore};
use crate::error::Result;
use crate::store::{Finding, Store as _};

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

const FACTS: &str = "SELECT current_setting('server_version') AS version, current_user::text AS role,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS is_superuser,
    has_database_privilege(current_database(), 'CREATE') AS may_create,
    coalesce(has_schema_privilege('public', to_regnamespace('public'), 'CREATE'), false) AS public_is_open,
    coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS encrypted,
    current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint AS slots,
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,
    (SELECT count(*) FROM pg_namespace WHERE starts_with(nspname, $1)) AS own";

pub(super) fn diagnose(store: &PostgresStore) -> Vec<Finding> {
    look(store).unwrap_or_else(|error| vec![Finding { name: "server", ok: false, detail: error.summary() }])
}

fn look(store: &PostgresStore) -> Result<Vec<Finding>> {
    let mut pooled = store.connections.get()?;
    let link = pooled.link()?;
    let facts: ServerInfo = diesel::sql_query(FACTS)
        .bind::<Text, _>(OWN)
        .get_result(&mut link.connection)
        .map_err(|error| super::failure::describe("cannot ask the server", store.target(), &error))?;
    let leftovers = super::leftovers::left(link)
        .map_err(|error| super::failure::describe("cannot look for leftovers", store.target(), &error))?;
    let route = match link.server.route {
        Route::Direct => "reached directly",
        Route::Pooled => "reached through a pooler: migrations outside a transaction need the server itself",
    };
    let encrypted = if facts.encrypted { "encrypted" } else { "not encrypted" };
    let server = format!("Postgres {}, {route}, {encrypted}", facts.version);
    let may = if facts.may_create { "may make schemas" } else { "may make no schemas" };
    let super_role = if facts.is_superuser { ", a superuser" } else { "" };
    let mut findings = vec![
        Finding { name: "server", ok: true, detail: server },
        Finding {
            name: "role",
            ok: facts.may_create,
            detail: format!("{}{super_role}, {may} in this database", facts.role),
        },
        Finding {
            name: "slots",
            ok: facts.used < facts.slots,
            detail: format!("{} of {} connections in use", facts.used, facts.slots),
        },
        Finding {
            name: "public",
            ok: !facts.public_is_open,
            detail: if facts.public_is_open {
                "everybody may create in the schema public: REVOKE CREATE ON SCHEMA public FROM PUBLIC".into()
            } else {
                "not everybody may create in the schema public".into()
            },
        },
    ];
    findings.push(Finding {
        name: "leftovers",
        ok: leftovers.is_empty(),
        detail: match leftovers.first() {
            None => "none".into(),
            Some(_) => format!(
                "of processes that were killed, or still run; tenantry doctor --clean removes the former: {}",
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
            "{} named {}, {} left alone, {} of tenantry's own",
            found.projects.len(),
            store.options.pattern,
            found.skipped.len(),
            facts.own
        ),
    });
    Ok(findings)
}
