-- The three tables without the foreign keys. Values that became NULL on the way up stay NULL: they led nowhere.
ALTER TABLE control_state DROP CONSTRAINT control_state_current_task_id_fkey;
ALTER TABLE tasks DROP CONSTRAINT tasks_active_version_id_fkey;
ALTER TABLE projects DROP CONSTRAINT projects_spec_artifact_id_fkey;
