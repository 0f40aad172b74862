-- Three columns hold ids of rows that nothing protected: projects.spec_artifact_id, tasks.active_version_id and
-- control_state.current_task_id. They become foreign keys.
--
-- A value that points at no row (the row was deleted, or never was) becomes NULL: it led nowhere, and all three columns
-- mean "none" by NULL. Every row stays. When the row pointed at is deleted later, the column becomes NULL as well, so
-- deleting goes on working as it does today.
--
-- projects.selected_arch_option_id stays as it is: no table of this system is known to hold what it refers to.

UPDATE projects SET spec_artifact_id = NULL
WHERE NOT EXISTS (SELECT FROM artifacts WHERE artifacts.id = projects.spec_artifact_id)
    AND spec_artifact_id IS NOT NULL;
UPDATE tasks SET active_version_id = NULL
WHERE NOT EXISTS (SELECT FROM task_versions WHERE task_versions.id = tasks.active_version_id)
    AND active_version_id IS NOT NULL;
UPDATE control_state SET current_task_id = NULL
WHERE NOT EXISTS (SELECT FROM tasks WHERE tasks.id = control_state.current_task_id)
    AND current_task_id IS NOT NULL;

ALTER TABLE projects
    ADD FOREIGN KEY (spec_artifact_id) REFERENCES artifacts (id) ON DELETE SET NULL;
ALTER TABLE tasks
    ADD FOREIGN KEY (active_version_id) REFERENCES task_versions (id) ON DELETE SET NULL;
ALTER TABLE control_state
    ADD FOREIGN KEY (current_task_id) REFERENCES tasks (id) ON DELETE SET NULL;
