CREATE TRIGGER tasks_touch AFTER UPDATE OF title, description, status ON tasks
BEGIN
    UPDATE tasks SET updated_at = CURRENT_TIMESTAMP WHERE id = NEW.id;
END;
