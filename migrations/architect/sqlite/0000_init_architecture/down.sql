DROP TABLE execution_traces;
DROP TABLE artifacts;
DROP TABLE checkpoints;
DROP TABLE projects;
