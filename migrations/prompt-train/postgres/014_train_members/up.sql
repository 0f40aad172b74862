-- Who belongs to a train, and who may run it.

CREATE TABLE IF NOT EXISTS train_members (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    train_id UUID NOT NULL REFERENCES trains (id) ON DELETE CASCADE,
    user_email VARCHAR(255) NOT NULL,
    role VARCHAR(20) NOT NULL CHECK (role IN ('owner', 'member')),
    added_by VARCHAR(255),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    UNIQUE (train_id, user_email)
);

CREATE INDEX IF NOT EXISTS idx_train_members_train ON train_members (train_id);
CREATE INDEX IF NOT EXISTS idx_train_members_email ON train_members (user_email);
CREATE INDEX IF NOT EXISTS idx_train_members_role ON train_members (train_id, role);

COMMENT ON TABLE train_members IS 'The people of a train, by their e-mail addresses';

INSERT INTO train_members (train_id, user_email, role)
SELECT id, 'todo@localhost', 'owner' FROM trains
WHERE NOT EXISTS (SELECT FROM train_members WHERE train_members.train_id = trains.id AND role = 'owner')
ON CONFLICT (train_id, user_email) DO UPDATE SET role = 'owner';

-- The last owner stays until there is another: looked at when the transaction ends, so that one can take over from the other.
-- The train is locked, so that of two owners who leave at once the second sees that the first has left. The tables are those
-- of the trigger's own schema, wherever the session's search_path leads.
CREATE OR REPLACE FUNCTION keep_an_owner() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    is_there boolean;
    has_owner boolean;
BEGIN
    EXECUTE format('SELECT true FROM %I.trains WHERE id = $1 FOR UPDATE', TG_TABLE_SCHEMA) INTO is_there USING OLD.train_id;
    EXECUTE format('SELECT EXISTS (SELECT FROM %I.train_members WHERE train_id = $1 AND role = $2)', TG_TABLE_SCHEMA)
        INTO has_owner USING OLD.train_id, 'owner';
    IF is_there AND NOT has_owner THEN
        RAISE EXCEPTION 'a train needs at least one owner' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS keep_an_owner ON train_members;
CREATE CONSTRAINT TRIGGER keep_an_owner AFTER UPDATE OR DELETE ON train_members DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION keep_an_owner();

-- A new train that nobody owns by the end of its transaction gets the owner that those before it got.
CREATE OR REPLACE FUNCTION give_an_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('INSERT INTO %I.train_members (train_id, user_email, role) SELECT id, $2, $3 FROM %I.trains
        WHERE id = $1 AND NOT EXISTS (SELECT FROM %I.train_members WHERE train_id = $1 AND role = $3)
        ON CONFLICT (train_id, user_email) DO UPDATE SET role = $3', TG_TABLE_SCHEMA, TG_TABLE_SCHEMA, TG_TABLE_SCHEMA)
        USING NEW.id, 'todo@localhost', 'owner';
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS give_an_owner ON trains;
CREATE CONSTRAINT TRIGGER give_an_owner AFTER INSERT ON trains DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION give_an_owner();

ANALYZE train_members;
