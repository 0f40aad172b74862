-- The three tables without the foreign keys. Values that became NULL on the way up stay NULL: they led nowhere.

CREATE TABLE control_state_new (
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
INSERT INTO control_state_new (id, project_id, paused, max_attempts, current_task_id, updated_at)
SELECT id, project_id, paused, max_attempts, current_task_id, updated_at
FROM control_state;
DROP TABLE control_state;
ALTER TABLE control_state_new RENAME TO control_state;

CREATE TABLE tasks_new (
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
INSERT INTO tasks_new (id, project_id, title, description, phase, status, active_version_id, created_at, updated_at)
SELECT id, project_id, title, description, phase, status, active_version_id, created_at, updated_at
FROM tasks;
DROP TABLE tasks;
ALTER TABLE tasks_new RENAME TO tasks;
CREATE INDEX ix_tasks_project_id ON tasks (project_id);
CREATE INDEX ix_tasks_status ON tasks (status);

CREATE TABLE projects_new (
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
INSERT INTO projects_new (id, name, description, current_phase, spec_artifact_id, selected_arch_option_id, created_at, updated_at)
SELECT id, name, description, current_phase, spec_artifact_id, selected_arch_option_id, created_at, updated_at
FROM projects;
DROP TABLE projects;
ALTER TABLE projects_new RENAME TO projects;
