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
CREATE OR REPLACE FUNCTION keep_an_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM trains WHERE id = OLD.train_id)
        AND NOT EXISTS (SELECT FROM train_members WHERE train_id = OLD.train_id AND role = 'owner') THEN
        RAISE EXCEPTION 'a train needs at least one owner' USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

DROP TRIGGER IF EXISTS keep_an_owner ON train_members;
CREATE CONSTRAINT TRIGGER keep_an_owner AFTER UPDATE OR DELETE ON train_members DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (OLD.role = 'owner') EXECUTE FUNCTION keep_an_owner();

ANALYZE train_members;
