-- Children before their parents.
DROP TABLE control_state;
DROP TABLE task_versions;
DROP TABLE artifacts;
DROP TABLE runs;
DROP TABLE approvals;
DROP TABLE change_requests;
DROP TABLE tasks;
DROP TABLE projects;
