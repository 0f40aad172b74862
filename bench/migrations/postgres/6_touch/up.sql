CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at = CURRENT_TIMESTAMP;
    RETURN NEW;
END $$;
CREATE TRIGGER tasks_touch BEFORE UPDATE OF title, description, status ON tasks
    FOR EACH ROW EXECUTE FUNCTION touch();
