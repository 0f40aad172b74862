//! Owners and grants: compared like the rest of a schema, and restored with it.

use crate::cluster::Server;
use crate::world::World;

/// A fleet whose migrations grant, revoke and change owners, and the roles that they name.
struct Granted {
    world: World,
    readers: String,
    owner: String,
    guest: String,
}

impl Granted {
    fn new() -> Self {
        let world = World::postgres();
        let name = world.database().name.clone();
        let [readers, owner, guest] = ["readers", "owner", "guest"].map(|role| format!("{role}_{name}"));
        for role in [&readers, &owner, &guest] {
            world.database().run(&["-c", &format!("CREATE ROLE {role}")]);
        }
        let mut granted = Self { world, readers, owner, guest };
        let (readers, owner) = (&granted.readers, &granted.owner);
        let one = "CREATE TABLE notes (id serial PRIMARY KEY, text varchar(9));\nCREATE TABLE audit (id int);\n\
             CREATE FUNCTION secret(a int) RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';\n\
             CREATE TYPE mood AS ENUM ('a');\nCREATE VIEW seen AS SELECT id FROM notes;";
        let two = format!(
            "GRANT SELECT, INSERT ON notes TO {readers};\nGRANT USAGE ON SEQUENCE notes_id_seq TO {readers};\n\
             GRANT UPDATE (text) ON notes TO {readers} WITH GRANT OPTION;\nREVOKE UPDATE, DELETE ON audit FROM CURRENT_USER;\n\
             REVOKE EXECUTE ON FUNCTION secret FROM PUBLIC;\nREVOKE USAGE ON TYPE mood FROM PUBLIC;\n\
             GRANT SELECT ON seen TO PUBLIC;\nALTER TABLE seen OWNER TO {owner};\n\
             DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO {readers}', current_schema());\n\
             EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO {readers}', current_schema()); END $$;"
        );
        let three = "CREATE TABLE later (id int);";
        granted.world.with_migrations(&[("1_one", one), ("2_two", &two), ("3_three", three)]);
        granted.world.expect(0, &["create", "a", "b"]);
        granted.world.expect(0, &["check", "--all"]);
        granted
    }

    fn run(&self, sql: &str) {
        self.world.execute("a", sql);
    }

    /// All owners and privileges in a project's schema, as the server's catalogs list them.
    fn privileges(&self, id: &str) -> Vec<String> {
        let (relations, types) = (
            "SELECT c.relname, pg_get_userbyid(c.relowner), acl::text FROM pg_class c, unnest(c.relacl) acl \
             WHERE c.relnamespace = current_schema()::regnamespace",
            "SELECT t.typname, '', acl::text FROM pg_type t, unnest(t.typacl) acl WHERE t.typnamespace = current_schema()::regnamespace",
        );
        let functions = "SELECT p.proname, '', acl::text FROM pg_proc p, unnest(p.proacl) acl WHERE p.pronamespace = current_schema()::regnamespace";
        let columns = "SELECT a.attname, '', acl::text FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid, unnest(a.attacl) acl \
             WHERE c.relnamespace = current_schema()::regnamespace";
        let schema = "SELECT 'schema', '', acl::text FROM pg_namespace n, unnest(n.nspacl) acl WHERE n.nspname = current_schema()";
        let defaults = "SELECT 'later', '', acl::text FROM pg_default_acl d, unnest(d.defaclacl) acl WHERE d.defaclnamespace = current_schema()::regnamespace";
        let sql = format!(
            "SELECT concat_ws(' ', n, o, a) FROM ({relations} UNION ALL {types} UNION ALL {functions} UNION ALL {columns} \
             UNION ALL {schema} UNION ALL {defaults}) it (n, o, a) ORDER BY 1"
        );
        self.world.query(id, &sql)
    }
}

impl Drop for Granted {
    fn drop(&mut self) {
        for role in [&self.readers, &self.owner, &self.guest] {
            self.world.database().run(&["-c", &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")]);
        }
    }
}

#[test]
fn what_a_migration_granted_is_missed_when_it_is_gone() {
    let granted = Granted::new();
    let Granted { world, readers, guest, .. } = &granted;
    let postgres = "postgres";
    let undo_schema = format!(
        "DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO {readers}', current_schema()); END $$"
    );
    let undo_later = format!(
        "DO $$ BEGIN EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I GRANT SELECT ON TABLES TO {readers}', current_schema()); END $$"
    );
    for (change, message, undo) in [
        (
            format!("REVOKE INSERT ON notes FROM {readers}"),
            format!("table notes: missing GRANT INSERT to {readers}"),
            format!("GRANT INSERT ON notes TO {readers}"),
        ),
        (
            format!("REVOKE USAGE ON SEQUENCE notes_id_seq FROM {readers}"),
            format!("table notes: missing GRANT USAGE on sequence notes_id_seq to {readers}"),
            format!("GRANT USAGE ON SEQUENCE notes_id_seq TO {readers}"),
        ),
        (
            format!("REVOKE GRANT OPTION FOR UPDATE (text) ON notes FROM {readers}"),
            format!("table notes: missing GRANT UPDATE (text) to {readers} with grant option"),
            format!("GRANT UPDATE (text) ON notes TO {readers} WITH GRANT OPTION"),
        ),
        (
            "GRANT DELETE ON audit TO CURRENT_USER".into(),
            "table audit: missing REVOKE DELETE from its owner".into(),
            "REVOKE DELETE ON audit FROM CURRENT_USER".into(),
        ),
        (
            "GRANT EXECUTE ON FUNCTION secret TO PUBLIC".into(),
            "function secret(a integer): missing REVOKE EXECUTE from PUBLIC".into(),
            "REVOKE EXECUTE ON FUNCTION secret FROM PUBLIC".into(),
        ),
        (
            "GRANT USAGE ON TYPE mood TO PUBLIC".into(),
            "type mood: missing REVOKE USAGE from PUBLIC".into(),
            "REVOKE USAGE ON TYPE mood FROM PUBLIC".into(),
        ),
        (
            format!("ALTER TABLE seen OWNER TO {postgres}"),
            format!("view seen: missing owner {}", granted.owner),
            format!("ALTER TABLE seen OWNER TO {}", granted.owner),
        ),
        (
            undo_schema.replace("GRANT", "REVOKE").replace(" TO ", " FROM "),
            format!("schema: missing GRANT USAGE to {readers}"),
            undo_schema.clone(),
        ),
        (
            undo_later.replace("GRANT", "REVOKE").replace(" TO ", " FROM "),
            format!("schema: missing GRANT SELECT on later tables to {readers}"),
            undo_later.clone(),
        ),
    ] {
        granted.run(&change);
        let status = world.run(&["status", "--check"]);
        assert_eq!(status.code, 4, "{change}: {}", status.stdout);
        assert!(status.stdout.contains(&message), "{change}: {}", status.stdout);
        world.expect(4, &["upgrade-all"]);
        granted.run(&undo);
        world.expect(0, &["status", "--check"]);
    }
    // Additional grants are reported as notes.
    granted.run(&format!("GRANT SELECT ON notes, audit TO {guest}; ALTER TABLE audit OWNER TO {guest}"));
    let status = world.run(&["status", "a", "--check"]);
    assert_eq!(status.code, 0, "{}", status.stdout);
    let upgrade = world.run(&["upgrade", "a"]);
    assert_eq!(upgrade.code, 0, "{}", upgrade.stdout);
    for message in [
        format!("GRANT SELECT to {guest} is not in any migration: table notes"),
        format!("owner {guest} is not in any migration: table audit"),
    ] {
        assert!(upgrade.stdout.contains(&message), "{message}: {}", upgrade.stdout);
    }
    // Grants that come from the role's own default privileges are no difference.
    let database = &world.database();
    database.run(&["-c", &format!("ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO {guest}")]);
    world.expect(0, &["create", "new"]);
    let status = world.run(&["status", "--check"]);
    database.run(&["-c", &format!("ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM {guest}")]);
    assert_eq!(status.code, 0, "{}", status.stdout);
}

#[test]
fn a_restored_project_is_granted_as_the_original_was() {
    let granted = Granted::new();
    let Granted { world, guest, readers, .. } = &granted;
    let before = granted.privileges("a");
    assert!(before.len() > 12, "{before:#?}");
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "check", "a", "--level", "4"]);
    world.expect(0, &["backup", "restore", "a", "--as", "copy"]);
    assert_eq!(granted.privileges("copy"), before);
    world.expect(0, &["status", "--check"]);
    // Grants that an administrator added after the backup are kept.
    granted.run(&format!("GRANT SELECT ON audit TO {guest}; REVOKE INSERT ON notes FROM {readers}"));
    world.expect(0, &["backup", "restore", "a"]);
    let after = granted.privileges("a");
    let guest_grants: Vec<_> = after.iter().filter(|it| it.contains(guest.as_str())).collect();
    assert_eq!(guest_grants.len(), 1, "{after:#?}");
    let other_grants: Vec<_> = after.iter().filter(|it| !it.contains(guest.as_str())).cloned().collect();
    assert_eq!(other_grants, before);
    // An export and an import keep the grants as well.
    let file = world.folder().join("a.sql");
    let file = file.to_str().unwrap();
    world.expect(0, &["export", "a", "--output", file]);
    world.expect(0, &["import", "imported", file]);
    assert_eq!(granted.privileges("imported"), after);
    world.expect(0, &["status", "--check"]);
}

/// A role that no longer exists is reported, and all other grants are restored.
#[test]
fn a_role_that_is_missing_at_a_restore_is_named() {
    let granted = Granted::new();
    let Granted { world, guest, .. } = &granted;
    granted.run(&format!("GRANT SELECT ON audit TO {guest}; GRANT INSERT ON notes TO {guest}"));
    world.expect(0, &["backup", "create", "a"]);
    granted.run(&format!("DROP OWNED BY {guest}; DROP ROLE {guest}"));
    for arguments in [
        &["backup", "check", "a"][..],
        &["backup", "restore", "a", "--as", "copy"],
        &["backup", "restore", "a"],
    ] {
        let ran = world.run(arguments);
        assert_eq!(ran.code, 0, "{}{}", ran.stdout, ran.stderr);
        let message = format!("role \"{guest}\" does not exist");
        assert!(ran.stdout.contains(&message), "{arguments:?}: {}{}", ran.stdout, ran.stderr);
    }
    assert_eq!(granted.privileges("copy"), granted.privileges("b"));
    world.expect(0, &["status", "--check"]);
    world.database().run(&["-c", &format!("CREATE ROLE {guest}")]);
}

/// With a role per project, the schemas are still equal, and a copy grants nothing to the original's role.
#[test]
fn a_projects_own_role_is_no_difference() {
    // Roles belong to the whole server, and other tests have projects of these names.
    let server = Server::new("", "");
    let mut world = World::on(&server, 5432);
    std::fs::write(world.folder().join("tenantry.toml"), "[store]\nisolation = \"role\"\n").unwrap();
    world.with_migrations(&[("1_one", "CREATE TABLE notes (id serial, text text);")]);
    world.expect(0, &["create", "a", "b"]);
    world.expect(0, &["status", "--check"]);
    let check = world.run(&["check", "--all"]);
    assert!(!check.stdout.contains("GRANT"), "{}", check.stdout);
    world.expect(0, &["backup", "create", "a"]);
    world.expect(0, &["backup", "restore", "a", "--as", "copy"]);
    let table_grants = |id: &str| {
        world.query(id, "SELECT acl::text FROM pg_class c, unnest(c.relacl) acl WHERE c.relname = 'notes' AND c.relnamespace = current_schema()::regnamespace ORDER BY 1")
    };
    let is_a_role = |acl: &String| acl.contains("project_");
    assert_eq!(table_grants("copy").into_iter().filter(is_a_role).count(), 1, "{:?}", table_grants("copy"));
    assert!(
        table_grants("copy").iter().any(|acl| acl.contains("project_copy")),
        "{:?}",
        table_grants("copy")
    );
    world.expect(0, &["drop", "a", "b", "copy", "--yes"]);
}
