//! What a statement of Postgres reaches for outside of its project's schema.
//!
//! Works on text alone, by a real parser of Postgres' SQL. What a text cannot tell (a function that writes elsewhere) the server
//! is asked when the reference is made: see `store/postgres/proof.rs`.

mod tokens;

use squawk_syntax::{SourceFile, SyntaxKind, SyntaxNode};

use super::{Dialect, Token, tokens};
use tokens::{block, database, every_project, qualified, session};

/// What a statement reaches for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutsideReference {
    /// It creates, changes, writes or locks something in another schema, with this name.
    Schema(String),
    /// It makes, changes or drops an extension, which the whole database has.
    Extension,
    /// It changes something else that belongs to the whole database or server: this.
    Database(&'static str),
    /// It writes the server's own catalogs.
    Catalogs(String),
    /// It looks into this catalog without saying in which schema, and sees the objects of all projects.
    EveryProject(String),
    /// It changes what the rest of the script runs with, or moves data past the server's SQL: this.
    Session(&'static str),
}

impl OutsideReference {
    /// What is wrong, and what to do about it.
    #[must_use]
    pub fn explain(&self) -> (String, String) {
        match self {
            Self::Schema(name) => (
                format!("{name} is in another schema than the project's"),
                "leave out the schema's name: a migration changes one project's schema alone, whichever that is".into(),
            ),
            Self::Extension => (
                "an extension belongs to the whole database, not to one project".into(),
                "make it once by hand in a schema of its own (CREATE EXTENSION ... SCHEMA extensions) and name that schema where \
                 it is used; or say here CREATE EXTENSION IF NOT EXISTS ... SCHEMA extensions"
                    .into(),
            ),
            Self::Database(what) => (
                format!("{what} belongs to the whole database or server, not to one project"),
                "do it once by hand, outside of the migrations: they run once for each project".into(),
            ),
            Self::Catalogs(name) => (
                format!("{name} is one of the server's own catalogs"),
                "use ALTER instead: what is written there by hand is past every check of the server".into(),
            ),
            Self::EveryProject(name) => (
                format!("{name} is read without a schema, so it shows the objects of all projects"),
                format!("ask for the project's own: {}", own_rows(name)),
            ),
            Self::Session(word) => (
                format!("{word} reaches beyond the project's own database"),
                "remove it: a migration is about one project's database alone, whichever that is".into(),
            ),
        }
    }
}

/// The condition for rows of a catalog to be about the current schema.
fn own_rows(catalog: &str) -> &'static str {
    match catalog {
        "pg_type" => "AND typnamespace = current_schema()::regnamespace",
        "pg_proc" => "AND pronamespace = current_schema()::regnamespace",
        "pg_constraint" => "AND connamespace = current_schema()::regnamespace",
        "pg_class" => "AND relnamespace = current_schema()::regnamespace",
        "pg_attribute" => "AND attrelid = 'the_table'::regclass",
        "pg_trigger" => "AND tgrelid = 'the_table'::regclass",
        "pg_enum" => "AND enumtypid = 'the_type'::regtype",
        "pg_index" => "AND indrelid = 'the_table'::regclass",
        "information_schema" => "AND table_schema = current_schema()",
        _ => "AND schemaname = current_schema()",
    }
}

/// What a statement reaches for; `None` where it keeps to its schema, as far as its text tells.
pub(super) fn elsewhere(sql: &str, found: &[Token<'_>]) -> Option<OutsideReference> {
    let is_code = ["DO", "SELECT", "WITH", "INSERT", "UPDATE", "DELETE"].iter().any(|word| found[0].is(word));
    database(found)
        .or_else(|| session(found))
        .or_else(|| names(sql))
        .or_else(|| is_code.then(|| every_project(found)).flatten())
        .or_else(|| if found[0].is("DO") { block(found) } else { None })
}

/// The first name in another schema that the statement creates, changes, writes or locks.
fn names(sql: &str) -> Option<OutsideReference> {
    let parsed = SourceFile::parse(sql);
    let root = parsed.syntax_node();
    if !parsed.errors().is_empty() {
        // What the parser does not know is looked at word by word.
        let found = tokens(sql, Dialect::Postgres).ok()?;
        return qualified(&found);
    }
    root.descendants().filter(is_whole_path).find_map(|path| target(&path))
}

fn is_path(node: &SyntaxNode) -> bool {
    matches!(node.kind(), SyntaxKind::PATH | SyntaxKind::PATH_REF)
}

fn is_whole_path(node: &SyntaxNode) -> bool {
    is_path(node) && !node.parent().is_some_and(|parent| is_path(&parent))
}

/// A name that is more than used: its last two parts.
fn target(path: &SyntaxNode) -> Option<OutsideReference> {
    // Types, operators, collations and functions of a shared schema may be used.
    const USES: [SyntaxKind; 5] = [
        SyntaxKind::PATH_TYPE,
        SyntaxKind::OP,
        SyntaxKind::OP_CLASS_REF,
        SyntaxKind::COLLATION_REF,
        SyntaxKind::PROCEDURE_NAME_REF,
    ];
    let parent = path.parent()?;
    if USES.contains(&parent.kind()) {
        return None;
    }
    let around = parent.parent();
    let is_read = around.as_ref().is_some_and(|it| {
        it.kind() == SyntaxKind::LIKE_CLAUSE
            || (it.kind() == SyntaxKind::RELATION_FROM_ITEM && !is_locked(it))
    });
    if is_read {
        return None;
    }
    let text = path.text().to_string();
    // The column that owns a sequence comes with its table.
    let column = parent.kind() == SyntaxKind::QUALIFIED_COLUMN_NAME_REF;
    let parts = tokens(&text, Dialect::Postgres).ok()?.iter().filter_map(Token::name).count();
    let name = tokens(&text, Dialect::Postgres).ok()?.iter().rev().find_map(Token::name)?;
    if name.starts_with("pg_") && parts <= 2 {
        return Some(OutsideReference::Catalogs(text));
    }
    (parts > 1 + usize::from(column)).then_some(OutsideReference::Schema(text))
}

/// Whether rows that are read are locked by it.
fn is_locked(item: &SyntaxNode) -> bool {
    let select = item.ancestors().find(|it| it.kind() == SyntaxKind::SELECT);
    select.is_some_and(|it| it.children().any(|child| child.kind() == SyntaxKind::LOCKING_CLAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Option<OutsideReference> {
        elsewhere(sql, &tokens(sql, Dialect::Postgres).unwrap())
    }

    #[test]
    fn what_belongs_to_the_whole_database_is_told() {
        for sql in [
            "CREATE EXTENSION IF NOT EXISTS \"uuid-ossp\"",
            "DROP EXTENSION citext",
            "create role evil superuser",
            "CREATE OR REPLACE TRUSTED LANGUAGE x",
            "CREATE EVENT TRIGGER e ON ddl_command_end EXECUTE FUNCTION f()",
            "CREATE PUBLICATION p FOR ALL TABLES",
            "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p",
            "CREATE SERVER s FOREIGN DATA WRAPPER w",
            "CREATE CAST (a AS b) WITHOUT FUNCTION",
            "CREATE TABLESPACE t LOCATION '/x'",
            "ALTER SYSTEM SET work_mem = 1",
            "ALTER DATABASE d SET work_mem = 1",
            "GRANT admin TO somebody",
            "GRANT USAGE ON SCHEMA public TO somebody",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO somebody",
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO somebody",
            "REASSIGN OWNED BY a TO b",
            "DO $$ BEGIN CREATE ROLE app; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
            "DO LANGUAGE 'plpgsql' $x$ BEGIN CREATE ROLE app; END $x$",
            "DO $x$ BEGIN IF true THEN EXECUTE 'CREATE EXTENSION citext'; END IF; END $x$",
        ] {
            let found = of(sql);
            let is_told = matches!(found, Some(OutsideReference::Database(_) | OutsideReference::Extension));
            assert!(is_told, "{sql}: {found:?}");
        }
        for sql in [
            "CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA extensions",
            "GRANT SELECT ON notes TO somebody",
            "CREATE FOREIGN TABLE f (a int) SERVER s",
            "COMMENT ON TABLE role IS 'CREATE ROLE x'",
            "DO $$ BEGIN RAISE NOTICE 'CREATE ROLE x'; END $$",
            "ALTER TABLE role ADD COLUMN extension text",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }

    #[test]
    fn a_name_in_another_schema_is_told_where_it_is_more_than_read() {
        for sql in [
            "CREATE TABLE public.a (b int)",
            "CREATE INDEX i ON public.t (a)",
            "CREATE TRIGGER t BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION f()",
            "CREATE TABLE a (b int REFERENCES public.p (id))",
            "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.p (id)",
            "INSERT INTO public.w VALUES (1)",
            "WITH d AS (DELETE FROM public.notes RETURNING *) SELECT * FROM d",
            "UPDATE ONLY public.w SET a = 1",
            "DELETE FROM \"Public\".w",
            "TRUNCATE public.t",
            "LOCK TABLE public.t",
            "MERGE INTO public.m USING n ON m.a = n.a WHEN MATCHED THEN DELETE",
            "SELECT * FROM public.t FOR UPDATE",
            "SELECT * INTO public.q FROM r",
            "CREATE POLICY p ON public.t USING (true)",
            "ALTER SEQUENCE s OWNED BY public.t.a",
            "COMMENT ON TABLE public.t IS 'x'",
            "GRANT SELECT ON public.t TO r",
            "CREATE TABLE a () INHERITS (public.t)",
            "DROP FUNCTION public.f(int)",
            "DO $$ BEGIN INSERT INTO public.w VALUES (1); END $$",
        ] {
            assert!(matches!(of(sql), Some(OutsideReference::Schema(_))), "{sql}: {:?}", of(sql));
        }
        for sql in [
            "CREATE TABLE a (b extensions.citext DEFAULT extensions.g(), c int CHECK (c OPERATOR(pg_catalog.>) 0))",
            "INSERT INTO w SELECT public.f(r.x) FROM public.r",
            "CREATE INDEX i ON t USING gin (a extensions.gin_trgm_ops, (b COLLATE public.c))",
            "SELECT t.a FROM t JOIN u ON t.id = u.id",
            "UPDATE t SET a = u.a FROM u WHERE t.id = u.id",
            "CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION public.f()",
            "ALTER SEQUENCE s OWNED BY t.a",
            "CREATE VIEW v AS SELECT * FROM public.z",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }

    #[test]
    fn the_servers_own_catalogs_are_not_written() {
        for sql in [
            "UPDATE pg_class SET relname = 'x'",
            "DELETE FROM pg_catalog.pg_enum",
            "INSERT INTO pg_enum VALUES (1)",
        ] {
            assert!(matches!(of(sql), Some(OutsideReference::Catalogs(_))), "{sql}: {:?}", of(sql));
        }
    }

    #[test]
    fn a_catalog_read_for_all_projects_is_told() {
        for sql in [
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_type WHERE typname = 'mood') THEN CREATE TYPE mood AS ENUM ('a'); END IF; END $$",
            "DO $$ BEGIN PERFORM 1 FROM information_schema.columns WHERE table_name = 'a'; END $$",
            "INSERT INTO a SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_tables WHERE tablename = 'b')",
        ] {
            assert!(matches!(of(sql), Some(OutsideReference::EveryProject(_))), "{sql}: {:?}", of(sql));
        }
        for sql in [
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_type WHERE typname = 'mood' AND typnamespace = current_schema()::regnamespace) \
             THEN CREATE TYPE mood AS ENUM ('a'); END IF; END $$",
            "DO $$ BEGIN IF to_regtype('mood') IS NULL THEN CREATE TYPE mood AS ENUM ('a'); END IF; END $$",
            "DO $$ BEGIN PERFORM 1 FROM pg_constraint WHERE conrelid = 'a'::regclass; END $$",
            "CREATE VIEW v AS SELECT relname FROM pg_class",
        ] {
            assert_eq!(of(sql), None, "{sql}");
        }
    }
}
