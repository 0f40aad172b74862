-- The application's eight tables, as its own models made them before it had migrations, so that a database made then
-- and one made now have the same schema.

CREATE TABLE projects (
    id INTEGER NOT NULL,
    name VARCHAR(200) NOT NULL,
    description TEXT,
    current_phase VARCHAR(15) NOT NULL,
    spec_artifact_id INTEGER,
    selected_arch_option_id INTEGER,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    PRIMARY KEY (id),
    CONSTRAINT phasetype CHECK (current_phase IN ('PLANNER', 'ARCHITECT', 'REVIEW_APPROVAL', 'CODER'))
);

CREATE TABLE tasks (
    id INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    title VARCHAR(300) NOT NULL,
    description TEXT,
    phase VARCHAR(15) NOT NULL,
    status VARCHAR(17) NOT NULL,
    active_version_id INTEGER,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (project_id) REFERENCES projects (id),
    CONSTRAINT phasetype CHECK (phase IN ('PLANNER', 'ARCHITECT', 'REVIEW_APPROVAL', 'CODER')),
    CONSTRAINT taskstatus CHECK (
        status IN ('PENDING', 'IN_PROGRESS', 'AWAITING_APPROVAL', 'APPROVED', 'REJECTED', 'COMPLETED', 'CANCELLED')
    )
);

CREATE TABLE change_requests (
    id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    title VARCHAR(300) NOT NULL,
    reason TEXT,
    status VARCHAR(11) NOT NULL,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (task_id) REFERENCES tasks (id),
    CONSTRAINT changerequeststatus CHECK (status IN ('DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED', 'IMPLEMENTED'))
);

CREATE TABLE approvals (
    id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    change_request_id INTEGER,
    approved_by VARCHAR(120) NOT NULL,
    approved BOOLEAN NOT NULL,
    comment TEXT,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (task_id) REFERENCES tasks (id),
    FOREIGN KEY (change_request_id) REFERENCES change_requests (id)
);

CREATE TABLE runs (
    id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    status VARCHAR(9) NOT NULL,
    gate_results JSON,
    started_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    finished_at DATETIME,
    PRIMARY KEY (id),
    FOREIGN KEY (task_id) REFERENCES tasks (id),
    CONSTRAINT runstatus CHECK (status IN ('RUNNING', 'SUCCESS', 'FAILURE', 'TIMEOUT', 'CANCELLED'))
);

CREATE TABLE artifacts (
    id INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    task_id INTEGER,
    run_id INTEGER,
    artifact_type VARCHAR(12) NOT NULL,
    name VARCHAR(255) NOT NULL,
    content TEXT,
    checksum VARCHAR(64),
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (project_id) REFERENCES projects (id),
    FOREIGN KEY (task_id) REFERENCES tasks (id),
    FOREIGN KEY (run_id) REFERENCES runs (id),
    CONSTRAINT artifacttype CHECK (
        artifact_type IN ('SPEC', 'PLAN', 'ARCHITECTURE', 'ADR', 'TRANSCRIPT', 'DIFF', 'LOG', 'OTHER')
    )
);

CREATE TABLE task_versions (
    id INTEGER NOT NULL,
    task_id INTEGER NOT NULL,
    version INTEGER NOT NULL,
    content TEXT NOT NULL,
    created_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY (task_id) REFERENCES tasks (id)
);

CREATE TABLE control_state (
    id INTEGER NOT NULL,
    project_id INTEGER NOT NULL,
    paused BOOLEAN NOT NULL,
    max_attempts INTEGER NOT NULL,
    current_task_id INTEGER,
    updated_at DATETIME DEFAULT CURRENT_TIMESTAMP NOT NULL,
    PRIMARY KEY (id),
    UNIQUE (project_id),
    FOREIGN KEY (project_id) REFERENCES projects (id)
);
