//! The sets of the binary: each leads up and down, and has what its system says of itself.

use std::collections::BTreeMap;
use std::path::Path;

use crate::world::World;

/// A set, and rows for every table of it at its head; without any, the application's own database has them.
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

const ARCHITECT: &str = "INSERT INTO projects (id, name, product_seed, environment) VALUES ('p', 'Shop', 'a shop', 'dev');
INSERT INTO checkpoints (checkpoint_id, project_id, thread_id, phase, state_snapshot) VALUES ('c', 'p', 't', 'PRD', '{}');
INSERT INTO artifacts (id, project_id, agent_id, artifact_type, content) VALUES ('a', 'p', 'data-architect', 'mermaid_erd', 'x');
INSERT INTO execution_traces (trace_id, project_id, agent_id) VALUES ('x', 'p', 'data-architect');";
const ORCHESTRATOR: &str = "INSERT INTO tasks (id, title, task_type) VALUES ('t', 'Build', 'tool');
INSERT INTO workflows (id, name, definition) VALUES ('w', 'Release', '{}');
INSERT INTO workflow_tasks (workflow_id, task_id) VALUES ('w', 't');
INSERT INTO tool_executions (id, task_id, tool_name, arguments) VALUES ('e', 't', 'shell', '{}');
INSERT INTO sessions (id, client_id, connection_type) VALUES ('s', 'c', 'websocket');
INSERT INTO configurations (key, value) VALUES ('theme', 'dark');";
const FOUNDATION: &str = "INSERT INTO users (id, tenant_id, email, created_at, updated_at) VALUES ('u', 't', 'a@b', 1, 1);
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
    /// A project of it that has rows.
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

/// What the database itself says of a project's schema, without the ledger.
fn spelled(world: &World, id: &str) -> Vec<String> {
    if !world.is_postgres() {
        return world.query(
            id,
            "SELECT type, name, replace(sql, '\"', '') FROM sqlite_schema WHERE tbl_name NOT IN ('__diesel_schema_migrations', 'tenantry_history') \
             AND name NOT LIKE 'sqlite_%' ORDER BY 1, 2",
        );
    }
    let dump = world.database().dump(&[
        "--schema-only",
        "--no-comments",
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
            at.insert(version.clone(), spelled(&world, "empty"));
            // What the application itself made is spelled otherwise.
            assert!(
                set.rows.is_empty() || at[version] == spelled(&world, "full"),
                "{} {version}: {:?}",
                set.name,
                spelled(&world, "full")
            );
            let report = world.expect(0, &["downgrade", "full", "empty", "--steps", "1"]);
            assert_eq!(report.count("downgraded"), 2, "{} {version}", set.name);
        }
        for id in ["full", "empty"] {
            let left: Vec<_> = spelled(&world, id).into_iter().filter(|it| !it.starts_with("SET ")).collect();
            assert!(left.is_empty(), "{}: {left:?}", set.name);
        }
        for version in &versions {
            world.expect(0, &["upgrade", "empty", "full", "--to", version]);
            for id in ["empty", "full"] {
                assert_eq!(at[version], spelled(&world, id), "{} {version}", set.name);
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
        let world = set.world();
        assert!(text.contains(&format!("# The set `{}`", set.name)), "{}", set.name);
        drop(world);
    }
}

/// Statements that must be refused, and for what: a part of the error's text.
fn refused(world: &World, cases: &[(&str, &str)]) {
    for (sql, part) in cases {
        let error = world.connect("a").execute_batch(sql).expect_err(sql).to_string();
        assert!(error.contains(part), "{sql}: {error}");
    }
}

/// Columns as `name type notnull default key`.
fn columns(world: &World, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT name || ' ' || type || iif(\"notnull\", ' NOT NULL', '') || iif(dflt_value IS NULL, '', ' = ' || dflt_value) || iif(pk, ' KEY', '') FROM pragma_table_info('{table}')"
    );
    world.query("a", &sql)
}

/// Indexes as `name(columns)`.
fn indexes(world: &World, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT l.name || '(' || (SELECT group_concat(name, ', ') FROM pragma_index_info(l.name)) || ')' FROM pragma_index_list('{table}') l WHERE origin = 'c' ORDER BY 1"
    );
    world.query("a", &sql)
}

#[test]
fn architect_has_what_its_system_says() {
    let world = World::sqlite().of_set("architect");
    world.expect(0, &["create", "a"]);
    assert_eq!(world.versions("a"), ["0000"]);
    let expected: [(&str, &[&str]); 4] = [
        (
            "projects",
            &[
                "id TEXT KEY",
                "name TEXT NOT NULL",
                "product_seed TEXT NOT NULL",
                "environment TEXT NOT NULL",
                "created_at DATETIME = CURRENT_TIMESTAMP",
                "updated_at DATETIME = CURRENT_TIMESTAMP",
            ],
        ),
        (
            "checkpoints",
            &[
                "checkpoint_id TEXT KEY",
                "project_id TEXT NOT NULL",
                "thread_id TEXT NOT NULL",
                "phase TEXT NOT NULL",
                "state_snapshot TEXT NOT NULL",
                "is_interrupted BOOLEAN = FALSE",
                "interrupt_reason TEXT",
                "created_at DATETIME = CURRENT_TIMESTAMP",
            ],
        ),
        (
            "artifacts",
            &[
                "id TEXT KEY",
                "project_id TEXT NOT NULL",
                "agent_id TEXT NOT NULL",
                "artifact_type TEXT NOT NULL",
                "content TEXT NOT NULL",
                "metadata TEXT",
                "created_at DATETIME = CURRENT_TIMESTAMP",
            ],
        ),
        (
            "execution_traces",
            &[
                "trace_id TEXT KEY",
                "project_id TEXT NOT NULL",
                "agent_id TEXT NOT NULL",
                "status TEXT",
                "latency_ms INTEGER",
                "langsmith_url TEXT",
                "created_at DATETIME = CURRENT_TIMESTAMP",
            ],
        ),
    ];
    for (table, wanted) in expected {
        assert_eq!(columns(&world, table), wanted, "{table}");
    }
    assert_eq!(indexes(&world, "artifacts"), ["idx_artifacts_project(project_id)"]);
    assert_eq!(indexes(&world, "checkpoints"), ["idx_checkpoints_thread(thread_id)"]);
    world.execute("a", ARCHITECT);
    refused(
        &world,
        &[
            (
                "INSERT INTO projects (id, name, product_seed, environment) VALUES ('q', 'x', 'x', 'test')",
                "CHECK",
            ),
            (
                "INSERT INTO projects (id, name, product_seed, environment) VALUES ('p', 'x', 'x', 'dev')",
                "UNIQUE",
            ),
            (
                "PRAGMA foreign_keys = ON; INSERT INTO artifacts (id, project_id, agent_id, artifact_type, content) VALUES ('b', 'q', 'x', 'x', 'x')",
                "FOREIGN KEY",
            ),
        ],
    );
    world.execute("a", "PRAGMA foreign_keys = ON; DELETE FROM projects");
    for table in ["checkpoints", "artifacts", "execution_traces"] {
        assert_eq!(world.query("a", &format!("SELECT count(*) FROM {table}")), ["0"], "{table}: no cascade");
    }
    plan_uses(
        &world,
        &[
            ("SELECT * FROM artifacts WHERE project_id = 'p'", "idx_artifacts_project"),
            ("SELECT * FROM checkpoints WHERE thread_id = 't'", "idx_checkpoints_thread"),
        ],
    );
}

/// Each query's plan names its index.
fn plan_uses(world: &World, cases: &[(&str, &str)]) {
    for (sql, index) in cases {
        let plan = rows_of_plan(world, sql);
        assert!(plan.split_whitespace().any(|word| word == *index), "{sql}: {plan}");
    }
}

fn rows_of_plan(world: &World, sql: &str) -> String {
    world.query("a", &format!("EXPLAIN QUERY PLAN {sql}")).join("\n")
}

#[test]
fn orchestrator_has_what_its_system_says() {
    const NOW: &str = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')";
    let world = World::sqlite().of_set("orchestrator");
    world.expect(0, &["create", "a"]);
    let versions: Vec<_> = (1..=7).map(|number| format!("2025011500{number}")).collect();
    assert_eq!(world.versions("a"), versions);
    let now = |name: &str| format!("{name} TEXT NOT NULL = {NOW}");
    let texts = |list: &[&str]| {
        list.iter()
            .map(|it| if it.ends_with('@') { now(it.trim_end_matches('@')) } else { (*it).to_string() })
            .collect::<Vec<_>>()
    };
    let expected: [(&str, &[&str]); 6] = [
        (
            "tasks",
            &[
                "id TEXT NOT NULL KEY",
                "title TEXT NOT NULL",
                "description TEXT",
                "task_type TEXT NOT NULL",
                "status TEXT NOT NULL = 'pending'",
                "config TEXT NOT NULL = '{}'",
                "metadata TEXT",
                "workspace_path TEXT",
                "created_at@",
                "updated_at@",
                "started_at TEXT",
                "completed_at TEXT",
                "error TEXT",
            ],
        ),
        (
            "workflows",
            &[
                "id TEXT NOT NULL KEY",
                "name TEXT NOT NULL",
                "description TEXT",
                "definition TEXT NOT NULL",
                "status TEXT NOT NULL = 'draft'",
                "created_at@",
                "updated_at@",
            ],
        ),
        (
            "workflow_tasks",
            &[
                "workflow_id TEXT NOT NULL KEY",
                "task_id TEXT NOT NULL KEY",
                "sequence INTEGER NOT NULL = 0",
                "created_at@",
            ],
        ),
        (
            "tool_executions",
            &[
                "id TEXT NOT NULL KEY",
                "task_id TEXT NOT NULL",
                "tool_name TEXT NOT NULL",
                "arguments TEXT NOT NULL",
                "output TEXT",
                "status TEXT NOT NULL = 'pending'",
                "error TEXT",
                "created_at@",
                "completed_at TEXT",
                "duration_ms INTEGER",
            ],
        ),
        (
            "sessions",
            &[
                "id TEXT NOT NULL KEY",
                "client_id TEXT NOT NULL",
                "user_id TEXT",
                "connection_type TEXT NOT NULL",
                "is_active INTEGER NOT NULL = 1",
                "metadata TEXT",
                "created_at@",
                "updated_at@",
                "last_heartbeat@",
            ],
        ),
        (
            "configurations",
            &[
                "key TEXT NOT NULL KEY",
                "value TEXT NOT NULL",
                "value_type TEXT NOT NULL = 'string'",
                "description TEXT",
                "is_secret INTEGER NOT NULL = 0",
                "created_at@",
                "updated_at@",
            ],
        ),
    ];
    for (table, wanted) in expected {
        assert_eq!(columns(&world, table), texts(wanted), "{table}");
    }
    let listed: [(&str, &[&str]); 6] = [
        (
            "tasks",
            &[
                "idx_tasks_created(created_at)",
                "idx_tasks_status(status)",
                "idx_tasks_type(task_type)",
                "idx_tasks_workspace(workspace_path)",
            ],
        ),
        (
            "workflows",
            &[
                "idx_workflows_created(created_at)",
                "idx_workflows_name(name)",
                "idx_workflows_status(status)",
            ],
        ),
        (
            "workflow_tasks",
            &[
                "idx_workflow_tasks_sequence(workflow_id, sequence)",
                "idx_workflow_tasks_task(task_id)",
                "idx_workflow_tasks_workflow(workflow_id)",
            ],
        ),
        (
            "tool_executions",
            &[
                "idx_tool_executions_created(created_at)",
                "idx_tool_executions_status(status)",
                "idx_tool_executions_task(task_id, created_at)",
                "idx_tool_executions_task_fk(task_id)",
                "idx_tool_executions_tool(tool_name)",
            ],
        ),
        (
            "sessions",
            &[
                "idx_sessions_active(is_active)",
                "idx_sessions_client(client_id)",
                "idx_sessions_created(created_at)",
                "idx_sessions_heartbeat(last_heartbeat)",
                "idx_sessions_user(user_id)",
            ],
        ),
        (
            "configurations",
            &[
                "idx_configurations_secret(is_secret)",
                "idx_configurations_type(value_type)",
                "idx_configurations_updated(updated_at)",
            ],
        ),
    ];
    for (table, wanted) in listed {
        assert_eq!(indexes(&world, table), wanted, "{table}");
    }
    world.execute("a", ORCHESTRATOR);
    let mut accepted = Vec::new();
    for status in ["pending", "running", "completed", "failed", "cancelled"] {
        accepted.push(format!("UPDATE tasks SET status = '{status}'"));
    }
    for status in ["draft", "active", "archived", "paused"] {
        accepted.push(format!("UPDATE workflows SET status = '{status}'"));
    }
    for status in ["pending", "running", "completed", "failed", "timeout"] {
        accepted.push(format!("UPDATE tool_executions SET status = '{status}'"));
    }
    for kind in ["websocket", "http", "grpc"] {
        accepted.push(format!("UPDATE sessions SET connection_type = '{kind}', is_active = 0"));
    }
    for kind in ["string", "integer", "float", "boolean", "json"] {
        accepted.push(format!("UPDATE configurations SET value_type = '{kind}', is_secret = 1"));
    }
    for sql in accepted {
        world.execute("a", &sql);
    }
    refused(
        &world,
        &[
            ("UPDATE tasks SET status = 'timeout'", "CHECK"),
            ("UPDATE workflows SET status = 'pending'", "CHECK"),
            ("UPDATE tool_executions SET status = 'cancelled'", "CHECK"),
            ("UPDATE sessions SET connection_type = 'ftp'", "CHECK"),
            ("UPDATE sessions SET is_active = 2", "CHECK"),
            ("UPDATE configurations SET value_type = 'text'", "CHECK"),
            ("UPDATE configurations SET is_secret = -1", "CHECK"),
            ("INSERT INTO workflow_tasks (workflow_id, task_id) VALUES ('w', 't')", "UNIQUE"),
            ("INSERT INTO configurations (key, value) VALUES ('theme', 'x')", "UNIQUE"),
            ("INSERT INTO tasks (id, title, task_type) VALUES (NULL, 'x', 'x')", "NOT NULL"),
            (
                "PRAGMA foreign_keys = ON; INSERT INTO workflow_tasks (workflow_id, task_id) VALUES ('w', 'none')",
                "FOREIGN KEY",
            ),
            (
                "PRAGMA foreign_keys = ON; INSERT INTO workflow_tasks (workflow_id, task_id) VALUES ('none', 't')",
                "FOREIGN KEY",
            ),
            (
                "PRAGMA foreign_keys = ON; INSERT INTO tool_executions (id, task_id, tool_name, arguments) VALUES ('x', 'none', 'x', '{}')",
                "FOREIGN KEY",
            ),
            ("PRAGMA foreign_keys = ON; DELETE FROM tasks", "FOREIGN KEY"),
        ],
    );
    // updated_at follows, unless it is set.
    for (table, key, change) in [
        ("tasks", "id", "title = 'Test'"),
        ("workflows", "id", "name = 'Test'"),
        ("sessions", "id", "user_id = 'ada'"),
        ("configurations", "key", "value = 'light'"),
    ] {
        let updated = || world.query("a", &format!("SELECT updated_at FROM {table}"));
        world.execute("a", &format!("UPDATE {table} SET updated_at = '2000-01-01T00:00:00.000Z'"));
        assert_eq!(updated(), ["2000-01-01T00:00:00.000Z"], "{table}");
        world.execute("a", &format!("UPDATE {table} SET {change} WHERE {key} IS NOT NULL"));
        assert!(updated()[0].as_str() > "2026-01-01", "{table}: {:?}", updated());
    }
    // Either end takes a link along, and no more than that.
    world.execute("a", "PRAGMA foreign_keys = ON; DELETE FROM workflows");
    assert_eq!(world.query("a", "SELECT count(*) FROM workflow_tasks"), ["0"]);
    world.execute("a", "INSERT INTO workflows (id, name, definition) VALUES ('w', 'x', '{}'); INSERT INTO workflow_tasks (workflow_id, task_id) VALUES ('w', 't'); DELETE FROM tool_executions; PRAGMA foreign_keys = ON; DELETE FROM tasks");
    assert_eq!(world.query("a", "SELECT count(*) FROM workflow_tasks"), ["0"]);
    plan_uses(
        &world,
        &[
            ("SELECT * FROM tasks WHERE status = 'pending'", "idx_tasks_status"),
            ("SELECT * FROM tasks WHERE task_type = 'tool'", "idx_tasks_type"),
            ("SELECT * FROM tasks ORDER BY created_at DESC LIMIT 10", "idx_tasks_created"),
            ("SELECT * FROM tasks WHERE workspace_path = '/x'", "idx_tasks_workspace"),
            (
                "SELECT * FROM workflow_tasks WHERE workflow_id = 'w' ORDER BY sequence",
                "idx_workflow_tasks_sequence",
            ),
            (
                "SELECT * FROM tool_executions WHERE task_id = 't' ORDER BY created_at",
                "idx_tool_executions_task",
            ),
            ("SELECT * FROM sessions WHERE last_heartbeat < '2026'", "idx_sessions_heartbeat"),
            ("SELECT * FROM configurations WHERE is_secret = 0", "idx_configurations_secret"),
        ],
    );
}

#[test]
fn foundation_has_what_its_system_says() {
    let world = World::sqlite().of_set("foundation");
    world.expect(0, &["create", "a"]);
    assert_eq!(world.versions("a"), ["0000", "0001", "0002", "0003"]);
    let expected: [(&str, &[&str]); 7] = [
        (
            "users",
            &[
                "id TEXT KEY",
                "tenant_id TEXT NOT NULL",
                "email TEXT NOT NULL",
                "password_hash TEXT",
                "created_at INTEGER NOT NULL",
                "updated_at INTEGER NOT NULL",
            ],
        ),
        (
            "audit_chain",
            &[
                "seq INTEGER KEY",
                "tenant_id TEXT NOT NULL",
                "event_type TEXT NOT NULL",
                "payload TEXT NOT NULL",
                "previous_hash TEXT NOT NULL",
                "hash TEXT NOT NULL",
                "created_at INTEGER NOT NULL",
            ],
        ),
        (
            "webhook_destinations",
            &[
                "id TEXT KEY",
                "tenant_id TEXT NOT NULL",
                "name TEXT NOT NULL = ''",
                "hostname TEXT NOT NULL",
                "url TEXT NOT NULL",
                "secret TEXT",
                "active INTEGER NOT NULL = 1",
                "events TEXT NOT NULL = '*'",
                "created_at INTEGER NOT NULL",
                "updated_at INTEGER NOT NULL",
            ],
        ),
        (
            "notifications",
            &[
                "id TEXT KEY",
                "tenant_id TEXT NOT NULL",
                "type TEXT NOT NULL",
                "title TEXT NOT NULL = ''",
                "message TEXT NOT NULL = ''",
                "metadata TEXT",
                "read INTEGER NOT NULL = 0",
                "created_at INTEGER NOT NULL",
            ],
        ),
        (
            "planning_runs",
            &[
                "id TEXT KEY",
                "idea TEXT NOT NULL",
                "refined_idea TEXT",
                "status TEXT NOT NULL = 'running'",
                "current_phase TEXT",
                "quality_score REAL",
                "revenue_potential REAL",
                "workflow_instance_id TEXT",
                "kill_verdict TEXT",
                "pivot_count INTEGER = 0",
                "package_key TEXT",
                "mode TEXT = 'cloud'",
                "config TEXT",
                "created_at INTEGER NOT NULL",
                "updated_at INTEGER NOT NULL",
            ],
        ),
        (
            "planning_artifacts",
            &[
                "id TEXT KEY",
                "run_id TEXT NOT NULL",
                "phase TEXT NOT NULL",
                "version INTEGER NOT NULL = 1",
                "content TEXT NOT NULL",
                "review_verdict TEXT",
                "overall_score REAL",
                "created_at INTEGER NOT NULL",
            ],
        ),
        (
            "planning_parked_ideas",
            &[
                "id TEXT KEY",
                "idea TEXT NOT NULL",
                "refined_idea TEXT",
                "run_id TEXT",
                "source_phase TEXT",
                "reason TEXT",
                "artifact_summary TEXT",
                "revisit_estimate_months INTEGER",
                "revisit_estimate_note TEXT",
                "created_at INTEGER NOT NULL",
            ],
        ),
    ];
    for (table, wanted) in expected {
        assert_eq!(columns(&world, table), wanted, "{table}");
    }
    let listed: [(&str, &[&str]); 7] = [
        ("users", &["idx_users_email(email)", "idx_users_tenant(tenant_id)"]),
        ("audit_chain", &["idx_audit_tenant(tenant_id)", "idx_audit_type(event_type)"]),
        ("webhook_destinations", &["idx_webhook_active(active)", "idx_webhook_tenant(tenant_id)"]),
        ("notifications", &["idx_notifications_read(read)", "idx_notifications_tenant(tenant_id)"]),
        ("planning_runs", &["idx_runs_created(created_at)", "idx_runs_status(status)"]),
        ("planning_artifacts", &["idx_artifacts_phase(run_id, phase)", "idx_artifacts_run(run_id)"]),
        ("planning_parked_ideas", &["idx_parked_source(source_phase)"]),
    ];
    for (table, wanted) in listed {
        assert_eq!(indexes(&world, table), wanted, "{table}");
    }
    world.execute("a", FOUNDATION);
    refused(
        &world,
        &[
            (
                "INSERT INTO users (id, tenant_id, email, created_at, updated_at) VALUES ('u', 't', 'x', 1, 1)",
                "UNIQUE",
            ),
            (
                "PRAGMA foreign_keys = ON; INSERT INTO planning_artifacts (id, run_id, phase, content, created_at) VALUES ('b', 'none', 'x', 'x', 1)",
                "FOREIGN KEY",
            ),
            ("PRAGMA foreign_keys = ON; DELETE FROM planning_runs", "FOREIGN KEY"),
        ],
    );
    // No number of the chain is given twice.
    world.execute("a", "DELETE FROM audit_chain; INSERT INTO audit_chain (tenant_id, event_type, payload, previous_hash, hash, created_at) VALUES ('t', 'x', 'x', '', 'h', 1)");
    assert_eq!(world.query("a", "SELECT seq FROM audit_chain"), ["2"]);
    plan_uses(
        &world,
        &[
            ("SELECT * FROM users WHERE tenant_id = 't'", "idx_users_tenant"),
            ("SELECT * FROM audit_chain WHERE tenant_id = 't'", "idx_audit_tenant"),
            ("SELECT * FROM webhook_destinations WHERE active = 1", "idx_webhook_active"),
            ("SELECT * FROM planning_runs WHERE status = 'running'", "idx_runs_status"),
            ("SELECT * FROM planning_runs ORDER BY created_at DESC LIMIT 20", "idx_runs_created"),
        ],
    );
}
