//! The schema of the set `orchestrator`, compared with what its application specifies.

use crate::set_schemas::{columns, indexes, plan_uses, refused};
use crate::sets::ORCHESTRATOR;
use crate::world::World;

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
    // Recursive triggers terminate, even with many changes in one millisecond.
    for (table, column) in
        [("tasks", "title"), ("workflows", "name"), ("sessions", "client_id"), ("configurations", "value")]
    {
        let update = format!("UPDATE {table} SET {column} = {column} || 'x';");
        world.execute("a", &format!("PRAGMA recursive_triggers = ON; BEGIN; {} COMMIT", update.repeat(300)));
    }
    // A trigger sets updated_at unless the statement does.
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
    // Deleting a workflow or a task deletes its links and nothing else.
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
