//! The schemas of the sets `architect` and `foundation`, compared with what their applications specify: columns,
//! indexes, and statements that are refused.

use crate::sets::{ARCHITECT, FOUNDATION};
use crate::world::World;

/// Asserts that each statement fails with an error that contains the given text.
pub(crate) fn refused(world: &World, cases: &[(&str, &str)]) {
    for (sql, part) in cases {
        let error = world.connect("a").execute_batch(sql).expect_err(sql).to_string();
        assert!(error.contains(part), "{sql}: {error}");
    }
}

/// The columns of a table, as `name type NOT NULL = default KEY`.
pub(crate) fn columns(world: &World, table: &str) -> Vec<String> {
    let sql = format!(
        "SELECT name || ' ' || type || iif(\"notnull\", ' NOT NULL', '') || iif(dflt_value IS NULL, '', ' = ' || dflt_value) || iif(pk, ' KEY', '') FROM pragma_table_info('{table}')"
    );
    world.query("a", &sql)
}

/// The indexes of a table, as `name(columns)`.
pub(crate) fn indexes(world: &World, table: &str) -> Vec<String> {
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
    for environment in ["staging", "production"] {
        world.execute("a", &format!("INSERT INTO projects (id, name, product_seed, environment) VALUES ('{environment}', 'x', 'x', '{environment}')"));
    }
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

/// Asserts that each query's plan uses the given index.
pub(crate) fn plan_uses(world: &World, cases: &[(&str, &str)]) {
    for (sql, index) in cases {
        let plan = rows_of_plan(world, sql);
        assert!(plan.split_whitespace().any(|word| word == *index), "{sql}: {plan}");
    }
}

fn rows_of_plan(world: &World, sql: &str) -> String {
    world.query("a", &format!("EXPLAIN QUERY PLAN {sql}")).join("\n")
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
    // A sequence number of the chain is never reused.
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
