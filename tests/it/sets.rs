//! The built-in sets: each can be migrated up and down, and has the same schema at a version in both directions.

use std::collections::BTreeMap;
use std::path::Path;

use crate::world::World;

/// A set, and SQL that inserts rows into each of its tables at the newest version. If empty, a legacy database has the
/// rows.
struct Set {
    name: &'static str,
    postgres: bool,
    rows: &'static str,
}

const SETS: [Set; 6] = [
    Set { name: "project", postgres: false, rows: "" },
    Set { name: "project", postgres: true, rows: "" },
    Set { name: "architect", postgres: false, rows: ARCHITECT },
    Set { name: "orchestrator", postgres: false, rows: ORCHESTRATOR },
    Set { name: "foundation", postgres: false, rows: FOUNDATION },
    Set { name: "prompt-train", postgres: true, rows: PROMPT_TRAIN },
];

pub(crate) const ARCHITECT: &str = "INSERT INTO projects (id, name, product_seed, environment) VALUES ('p', 'Shop', 'a shop', 'dev');
INSERT INTO checkpoints (checkpoint_id, project_id, thread_id, phase, state_snapshot) VALUES ('c', 'p', 't', 'PRD', '{}');
INSERT INTO artifacts (id, project_id, agent_id, artifact_type, content) VALUES ('a', 'p', 'data-architect', 'mermaid_erd', 'x');
INSERT INTO execution_traces (trace_id, project_id, agent_id) VALUES ('x', 'p', 'data-architect');";
pub(crate) const ORCHESTRATOR: &str =
    "INSERT INTO tasks (id, title, task_type) VALUES ('t', 'Build', 'tool');
INSERT INTO workflows (id, name, definition) VALUES ('w', 'Release', '{}');
INSERT INTO workflow_tasks (workflow_id, task_id) VALUES ('w', 't');
INSERT INTO tool_executions (id, task_id, tool_name, arguments) VALUES ('e', 't', 'shell', '{}');
INSERT INTO sessions (id, client_id, connection_type) VALUES ('s', 'c', 'websocket');
INSERT INTO configurations (key, value) VALUES ('theme', 'dark');";
pub(crate) const FOUNDATION: &str = "INSERT INTO users (id, tenant_id, email, created_at, updated_at) VALUES ('u', 't', 'a@b', 1, 1);
INSERT INTO audit_chain (tenant_id, event_type, payload, previous_hash, hash, created_at) VALUES ('t', 'login', '{}', '', 'h', 1);
INSERT INTO webhook_destinations (id, tenant_id, hostname, url, created_at, updated_at) VALUES ('w', 't', 'h', 'u', 1, 1);
INSERT INTO notifications (id, tenant_id, type, created_at) VALUES ('n', 't', 'info', 1);
INSERT INTO planning_runs (id, idea, created_at, updated_at) VALUES ('r', 'a shop', 1, 1);
INSERT INTO planning_artifacts (id, run_id, phase, content, created_at) VALUES ('a', 'r', 'intake', 'x', 1);
INSERT INTO planning_parked_ideas (id, idea, created_at) VALUES ('i', 'a cafe', 1);";
const PROMPT_TRAIN: &str = r#"INSERT INTO api_requests (request_id, domain, method, path, body, train_id) VALUES
    ('00000000-0000-0000-0000-000000000001', 'a.example', 'POST', '/v1/messages', '{"system": "be brief", "messages": [{"role": "user", "content": "hi"}]}', 'a');
INSERT INTO streaming_chunks (request_id, chunk_index, data) VALUES ('00000000-0000-0000-0000-000000000001', 0, 'hi');
INSERT INTO conversation_analyses (conversation_id) VALUES ('00000000-0000-0000-0000-000000000001');
INSERT INTO trains (id, train_id, name) VALUES ('00000000-0000-0000-0000-00000000000a', 'a', 'A');
INSERT INTO train_members (train_id, user_email, role) VALUES ('00000000-0000-0000-0000-00000000000a', 'ada@example', 'owner');
INSERT INTO anthropic_credentials (id, account_id, account_name, oauth_access_token, oauth_refresh_token, oauth_expires_at)
    VALUES ('00000000-0000-0000-0000-00000000000c', 'acc', 'Acc', 'x', 'y', now());
INSERT INTO train_accounts (train_id, credential_id) VALUES ('00000000-0000-0000-0000-00000000000a', '00000000-0000-0000-0000-00000000000c');
INSERT INTO train_api_keys (train_id, key_hash, key_prefix) VALUES ('00000000-0000-0000-0000-00000000000a', 'k', 'pt_');
REFRESH MATERIALIZED VIEW hourly_stats;"#;

impl Set {
    /// Creates a project of the set that has rows.
    fn fill(&self, world: &mut World, id: &str) {
        if self.rows.is_empty() {
            world.with_legacy_as(1, id).expect(0, &["upgrade", id]);
        } else {
            world.expect(0, &["create", id]);
            world.execute(id, self.rows);
        }
    }

    fn world(&self) -> World {
        if self.postgres { World::postgres() } else { World::sqlite() }.of_set(self.name)
    }
}

/// The set's versions, oldest first.
fn versions(world: &World) -> Vec<String> {
    let list = world.expect(0, &["migration", "list"]);
    list.events("migration").iter().map(|it| it["version"].as_str().unwrap().to_string()).collect()
}

/// A project's schema as the database prints it, without the ledger.
fn schema_text(world: &World, id: &str) -> Vec<String> {
    if !world.is_postgres() {
        return world.query(
            id,
            "SELECT type, name, replace(sql, '\"', '') FROM sqlite_schema WHERE tbl_name NOT IN ('__diesel_schema_migrations', 'tenantry_history') \
             AND name NOT LIKE 'sqlite_%' ORDER BY 1, 2",
        );
    }
    let dump = world.database().dump(&[
        "--schema-only",
        "-n",
        &format!("project_{id}"),
        "-T",
        "*.__diesel_schema_migrations",
        "-T",
        "*.tenantry_history",
    ]);
    let mut statements: Vec<_> = dump
        .split(";\n")
        .map(|it| {
            it.lines()
                .filter(|line| !line.starts_with("--") && !line.starts_with('\\'))
                .collect::<Vec<_>>()
                .join("\n")
        })
        .map(|it| it.trim().replace(&format!("project_{id}."), ""))
        .filter(|it| !it.is_empty() && !it.contains("__diesel_schema_migrations"))
        .filter(|it| !it.contains("SCHEMA project_") && !it.starts_with("SELECT pg_catalog.set_config"))
        .collect();
    statements.sort();
    statements
}

#[test]
fn each_set_goes_up_and_down_and_has_one_schema_at_each_version() {
    for set in SETS {
        let mut world = set.world();
        let versions = versions(&world);
        world.expect(0, &["create", "empty"]);
        set.fill(&mut world, "full");
        for table in world.tables("full") {
            let counted = world.query("full", &format!("SELECT count(*) FROM {table}"));
            assert!(counted != ["0"], "{}: no row in {table}", set.name);
        }
        let mut at: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for version in versions.iter().rev() {
            at.insert(version.clone(), schema_text(&world, "empty"));
            // The text of a schema that the application created differs.
            assert!(
                set.rows.is_empty() || at[version] == schema_text(&world, "full"),
                "{} {version}: {:?}",
                set.name,
                schema_text(&world, "full")
            );
            let report = world.expect(0, &["downgrade", "full", "empty", "--steps", "1"]);
            assert_eq!(report.count("downgraded"), 2, "{} {version}", set.name);
        }
        for id in ["full", "empty"] {
            let remaining: Vec<_> =
                schema_text(&world, id).into_iter().filter(|it| !it.starts_with("SET ")).collect();
            assert!(remaining.is_empty(), "{}: {remaining:?}", set.name);
        }
        for version in &versions {
            world.expect(0, &["upgrade", "empty", "full", "--to", version]);
            for id in ["empty", "full"] {
                assert_eq!(at[version], schema_text(&world, id), "{} {version}", set.name);
            }
        }
        assert_eq!(world.expect(0, &["status"]).count("up_to_date"), 2, "{}", set.name);
        world.expect(0, &["check", "--all"]);
    }
}

#[test]
fn rows_that_a_step_back_can_keep_are_kept() {
    for set in SETS {
        let mut world = set.world();
        set.fill(&mut world, "a");
        for version in versions(&world).iter().rev().skip(1) {
            let before = world.contents("a");
            world.expect(0, &["downgrade", "a", "--to", version]);
            let after = world.contents("a");
            for (table, rows) in &after {
                assert_eq!(rows.len(), before[table].len(), "{} {version}: {table}", set.name);
            }
        }
    }
}

#[test]
fn each_set_has_a_page_that_says_what_was_chosen() {
    for set in SETS {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(set.name).join("README.md");
        let text = std::fs::read_to_string(page).unwrap();
        assert!(text.contains(&format!("# The set `{}`", set.name)), "{}", set.name);
    }
}
