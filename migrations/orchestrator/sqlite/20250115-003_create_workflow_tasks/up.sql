-- Which tasks make up a workflow, in which order. Gone with either.

CREATE TABLE workflow_tasks (
    workflow_id TEXT NOT NULL REFERENCES workflows (id) ON DELETE CASCADE,
    task_id TEXT NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (workflow_id, task_id)
);

CREATE INDEX idx_workflow_tasks_workflow ON workflow_tasks (workflow_id);
CREATE INDEX idx_workflow_tasks_task ON workflow_tasks (task_id);
CREATE INDEX idx_workflow_tasks_sequence ON workflow_tasks (workflow_id, sequence);
