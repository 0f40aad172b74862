-- updated_at follows every change that does not set it itself. Where an application has triggers recurse, the first condition
-- ends the trigger's own update, and the second two changes in one millisecond.

CREATE TRIGGER update_tasks_updated_at AFTER UPDATE ON tasks FOR EACH ROW WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE tasks SET updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
        WHERE id = NEW.id AND updated_at IS NOT strftime('%Y-%m-%dT%H:%M:%fZ', 'now');
END;

CREATE TRIGGER update_workflows_updated_at AFTER UPDATE ON workflows FOR EACH ROW WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE workflows SET updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
        WHERE id = NEW.id AND updated_at IS NOT strftime('%Y-%m-%dT%H:%M:%fZ', 'now');
END;

CREATE TRIGGER update_sessions_updated_at AFTER UPDATE ON sessions FOR EACH ROW WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE sessions SET updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
        WHERE id = NEW.id AND updated_at IS NOT strftime('%Y-%m-%dT%H:%M:%fZ', 'now');
END;

CREATE TRIGGER update_configurations_updated_at AFTER UPDATE ON configurations FOR EACH ROW WHEN NEW.updated_at IS OLD.updated_at
BEGIN
    UPDATE configurations SET updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
        WHERE key = NEW.key AND updated_at IS NOT strftime('%Y-%m-%dT%H:%M:%fZ', 'now');
END;
