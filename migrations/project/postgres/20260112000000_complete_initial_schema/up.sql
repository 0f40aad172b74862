-- The application's eight tables and five enums, as its own models made them before it had migrations, so that a schema
-- made then and one made now are the same.

CREATE TYPE phasetype AS ENUM ('PLANNER', 'ARCHITECT', 'REVIEW_APPROVAL', 'CODER');
CREATE TYPE taskstatus AS ENUM (
    'PENDING', 'IN_PROGRESS', 'AWAITING_APPROVAL', 'APPROVED', 'REJECTED', 'COMPLETED', 'CANCELLED'
);
CREATE TYPE changerequeststatus AS ENUM ('DRAFT', 'SUBMITTED', 'APPROVED', 'REJECTED', 'IMPLEMENTED');
CREATE TYPE runstatus AS ENUM ('RUNNING', 'SUCCESS', 'FAILURE', 'TIMEOUT', 'CANCELLED');
CREATE TYPE artifacttype AS ENUM ('SPEC', 'PLAN', 'ARCHITECTURE', 'ADR', 'TRANSCRIPT', 'DIFF', 'LOG', 'OTHER');

CREATE TABLE projects (
    id SERIAL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    description TEXT,
    current_phase phasetype NOT NULL,
    spec_artifact_id INTEGER,
    selected_arch_option_id INTEGER,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE TABLE tasks (
    id SERIAL PRIMARY KEY,
    project_id INTEGER NOT NULL REFERENCES projects (id),
    title VARCHAR(300) NOT NULL,
    description TEXT,
    phase phasetype NOT NULL,
    status taskstatus NOT NULL,
    active_version_id INTEGER,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE TABLE change_requests (
    id SERIAL PRIMARY KEY,
    task_id INTEGER NOT NULL REFERENCES tasks (id),
    title VARCHAR(300) NOT NULL,
    reason TEXT,
    status changerequeststatus NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE TABLE approvals (
    id SERIAL PRIMARY KEY,
    task_id INTEGER NOT NULL REFERENCES tasks (id),
    change_request_id INTEGER REFERENCES change_requests (id),
    approved_by VARCHAR(120) NOT NULL,
    approved BOOLEAN NOT NULL,
    comment TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE TABLE runs (
    id SERIAL PRIMARY KEY,
    task_id INTEGER NOT NULL REFERENCES tasks (id),
    attempt INTEGER NOT NULL,
    status runstatus NOT NULL,
    gate_results JSON,
    started_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL,
    finished_at TIMESTAMP
);

CREATE TABLE artifacts (
    id SERIAL PRIMARY KEY,
    project_id INTEGER NOT NULL REFERENCES projects (id),
    task_id INTEGER REFERENCES tasks (id),
    run_id INTEGER REFERENCES runs (id),
    artifact_type artifacttype NOT NULL,
    name VARCHAR(255) NOT NULL,
    content TEXT,
    checksum VARCHAR(64),
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE TABLE task_versions (
    id SERIAL PRIMARY KEY,
    task_id INTEGER NOT NULL REFERENCES tasks (id),
    version INTEGER NOT NULL,
    content TEXT NOT NULL,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);

CREATE TABLE control_state (
    id SERIAL PRIMARY KEY,
    project_id INTEGER NOT NULL UNIQUE REFERENCES projects (id),
    paused BOOLEAN NOT NULL,
    max_attempts INTEGER NOT NULL,
    current_task_id INTEGER,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL
);
