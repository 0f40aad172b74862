-- 20 rows a table, for schemas at the baseline of the set `project`.
INSERT INTO projects (name, current_phase) SELECT 'project ' || n, 'CODER' FROM generate_series(1, 20) n;
INSERT INTO tasks (project_id, title, phase, status, description)
SELECT n, 'task ' || n, 'CODER', (ARRAY['PENDING', 'IN_PROGRESS', 'COMPLETED'])[n % 3 + 1]::taskstatus, repeat('x', 100)
FROM generate_series(1, 20) n;
INSERT INTO change_requests (task_id, title, status) SELECT n, 'change ' || n, 'DRAFT' FROM generate_series(1, 20) n;
INSERT INTO approvals (task_id, change_request_id, approved_by, approved)
SELECT n, n, 'somebody', n % 2 = 0 FROM generate_series(1, 20) n;
INSERT INTO runs (task_id, attempt, status, gate_results)
SELECT n, 1, 'SUCCESS', '{"gate": true}' FROM generate_series(1, 20) n;
INSERT INTO artifacts (project_id, task_id, run_id, artifact_type, name, content)
SELECT n, n, n, 'LOG', 'log ' || n, repeat('y', 200) FROM generate_series(1, 20) n;
INSERT INTO task_versions (task_id, version, content) SELECT n, 1, repeat('z', 200) FROM generate_series(1, 20) n;
INSERT INTO control_state (project_id, paused, max_attempts) SELECT n, false, 3 FROM generate_series(1, 20) n;
