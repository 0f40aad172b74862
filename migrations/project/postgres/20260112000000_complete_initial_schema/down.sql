-- Children before their parents, tables before their types.
DROP TABLE control_state;
DROP TABLE task_versions;
DROP TABLE artifacts;
DROP TABLE runs;
DROP TABLE approvals;
DROP TABLE change_requests;
DROP TABLE tasks;
DROP TABLE projects;
DROP TYPE artifacttype;
DROP TYPE runstatus;
DROP TYPE changerequeststatus;
DROP TYPE taskstatus;
DROP TYPE phasetype;
