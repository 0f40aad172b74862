-- What the agents work on: projects, the states they can be taken back to, what came out of them, and how it went.

CREATE TABLE projects (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    product_seed TEXT NOT NULL,
    environment TEXT CHECK (environment IN ('dev', 'staging', 'production')) NOT NULL,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP
);

-- The state of a graph's thread at a moment, to resume from or to go back to.
CREATE TABLE checkpoints (
    checkpoint_id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    thread_id TEXT NOT NULL,
    phase TEXT NOT NULL,
    state_snapshot TEXT NOT NULL,
    is_interrupted BOOLEAN DEFAULT FALSE,
    interrupt_reason TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE
);

-- Diagrams, schemas and documents, with the JSON that groups them.
CREATE TABLE artifacts (
    id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    artifact_type TEXT NOT NULL,
    content TEXT NOT NULL,
    metadata TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE TABLE execution_traces (
    trace_id TEXT PRIMARY KEY,
    project_id TEXT NOT NULL,
    agent_id TEXT NOT NULL,
    status TEXT,
    latency_ms INTEGER,
    langsmith_url TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
    FOREIGN KEY (project_id) REFERENCES projects (id) ON DELETE CASCADE
);

CREATE INDEX idx_artifacts_project ON artifacts (project_id);
CREATE INDEX idx_checkpoints_thread ON checkpoints (thread_id);
