CREATE TABLE labels (
    id SERIAL PRIMARY KEY,
    task_id INTEGER NOT NULL REFERENCES tasks (id) ON DELETE CASCADE,
    name VARCHAR(80) NOT NULL CHECK (name <> ''),
    UNIQUE (task_id, name)
);
