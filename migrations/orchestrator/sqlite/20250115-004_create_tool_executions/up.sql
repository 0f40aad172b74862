-- What tools were called, with what, and what came of it. A task that has executions can't be deleted: this is its audit log.

CREATE TABLE tool_executions (
    id TEXT PRIMARY KEY NOT NULL,
    task_id TEXT NOT NULL REFERENCES tasks (id),
    tool_name TEXT NOT NULL,
    arguments TEXT NOT NULL,
    output TEXT,
    status TEXT NOT NULL DEFAULT 'pending'
        CHECK (status IN ('pending', 'running', 'completed', 'failed', 'timeout')),
    error TEXT,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    completed_at TEXT,
    duration_ms INTEGER
);

CREATE INDEX idx_tool_executions_task ON tool_executions (task_id, created_at);
CREATE INDEX idx_tool_executions_tool ON tool_executions (tool_name);
CREATE INDEX idx_tool_executions_status ON tool_executions (status);
CREATE INDEX idx_tool_executions_created ON tool_executions (created_at);
CREATE INDEX idx_tool_executions_task_fk ON tool_executions (task_id);
