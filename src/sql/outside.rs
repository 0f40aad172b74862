//! Finds what a Postgres statement reads or changes outside its project's schema.
//!
//! Works on the text alone, with a parser for Postgres SQL. The text does not show everything: a function can write to
//! another schema. The server reveals that when the reference is built, see `store/postgres/confinement.rs`.

mod tokens;

use squawk_syntax::{SourceFile, SyntaxKind, SyntaxNode};

use super::{Dialect, Token, tokens};
use tokens::{
    find_database_change, find_in_block, find_qualified_name, find_session_change, unfiltered_catalog,
};

/// Something outside the project's schema that a statement reads or changes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutsideReference {
    /// The statement creates, changes, writes or locks something in another schema: its name.
    Schema(String),
    /// The statement creates, changes or drops an extension, which belongs to the whole database.
    Extension,
    /// The statement changes something else that belongs to the whole database or server: what that is.
    Database(&'static str),
    /// The statement writes to a system catalog: its name.
    SystemCatalog(String),
    /// The statement reads a catalog without a condition on the schema, and sees the objects of all projects: its name.
    UnfilteredCatalog(String),
    /// The statement changes the session for the rest of the script, or transfers data from or to somewhere else: its
    /// keyword.
    Session(&'static str),
}

impl OutsideReference {
    /// Returns a message that says what is wrong, and a hint that says what to do.
    #[must_use]
    pub fn explain(&self) -> (String, String) {
        match self {
            Self::Schema(name) => {
                let schema = name.split('.').next().unwrap_or(name);
                (
                    format!("{name} is not in the project's schema"),
                    format!(
                        "remove the schema name: a migration runs in each project's schema and may change only that schema; if \
                         {schema} means that schema in all migrations: --own-schema {schema}"
                    ),
                )
            }
            Self::Extension => (
                "an extension belongs to the whole database, not to one project".into(),
                "a migration may create an extension (CREATE EXTENSION IF NOT EXISTS ...), and a down.sql may have DROP EXTENSION, \
                 which is left out; let an administrator do the rest"
                    .into(),
            ),
            Self::Database(what) => (
                format!("{what} affects the whole database or server, not only one project"),
                "run it once by hand, outside the migrations: they run once for each project".into(),
            ),
            Self::SystemCatalog(name) => (
                format!("{name} is a system catalog"),
                "use ALTER instead: the server does not check direct changes to its system catalogs".into(),
            ),
            Self::UnfilteredCatalog(name) => (
                format!("{name} is read without a condition on the schema, so it shows the objects of all projects"),
                format!("restrict it to the project's schema: {}", schema_condition(name)),
            ),
            Self::Session(word) if word.starts_with("COPY") => (
                format!("{word} is not allowed in a migration"),
                "use INSERT, or COPY table (columns) FROM stdin with the rows in the script".into(),
            ),
            Self::Session(word) => (
                format!("{word} affects more than the project's own database"),
                "remove it: a migration runs in each project's database and may change only that database".into(),
            ),
        }
    }
}

/// Returns the condition that restricts a query of a catalog to the current schema.
fn schema_condition(catalog: &str) -> &'static str {
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

/// Returns the first thing outside the project's schema that a statement reads or changes. `None` if its text shows
/// nothing of the kind.
pub(super) fn outside_reference(sql: &str, tokens: &[Token<'_>]) -> Option<OutsideReference> {
    let is_code =
        ["DO", "SELECT", "WITH", "INSERT", "UPDATE", "DELETE"].iter().any(|word| tokens[0].is(word));
    find_database_change(tokens)
        .or_else(|| find_session_change(tokens))
        .or_else(|| name_outside(sql))
        .or_else(|| is_code.then(|| unfiltered_catalog(tokens)).flatten())
        .or_else(|| if tokens[0].is("DO") { find_in_block(tokens) } else { None })
}

/// Returns the first name in another schema that the statement creates, changes, writes or locks.
fn name_outside(sql: &str) -> Option<OutsideReference> {
    let parsed = SourceFile::parse(sql);
    let root = parsed.syntax_node();
    if !parsed.errors().is_empty() {
        // The parser does not know this statement, so only its tokens are checked.
        let tokens = tokens(sql, Dialect::Postgres).ok()?;
        return find_qualified_name(&tokens);
    }
    root.descendants().filter(is_whole_path).find_map(|path| target(&path))
}

fn is_path(node: &SyntaxNode) -> bool {
    matches!(node.kind(), SyntaxKind::PATH | SyntaxKind::PATH_REF)
}

fn is_whole_path(node: &SyntaxNode) -> bool {
    is_path(node) && !node.parent().is_some_and(|parent| is_path(&parent))
}

/// Returns the reference that a name makes to another schema or to a system catalog. `None` if the name is only used.
fn target(path: &SyntaxNode) -> Option<OutsideReference> {
    // A migration may use types, operators, collations and functions of a shared schema.
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
    let grandparent = parent.parent();
    // A foreign key may lead to a shared schema. The server shows whether it is one.
    let is_foreign_key = std::iter::successors(Some(parent.clone()), SyntaxNode::parent).take(4).any(|it| {
        matches!(
            it.kind(),
            SyntaxKind::REFERENCES_TABLE
                | SyntaxKind::REFERENCES_CONSTRAINT
                | SyntaxKind::FOREIGN_KEY_CONSTRAINT
        )
    });
    let is_read = grandparent.as_ref().is_some_and(|it| {
        it.kind() == SyntaxKind::LIKE_CLAUSE
            || (it.kind() == SyntaxKind::RELATION_FROM_ITEM && !is_locked(it))
    });
    if is_read || is_foreign_key {
        return None;
    }
    let text = path.text().to_string();
    // The column that owns a sequence is written with its table, so its name has one part more.
    let column = parent.kind() == SyntaxKind::QUALIFIED_COLUMN_NAME_REF;
    let parts = tokens(&text, Dialect::Postgres).ok()?.iter().filter_map(Token::name).count();
    let name = tokens(&text, Dialect::Postgres).ok()?.iter().rev().find_map(Token::name)?;
    if name.starts_with("pg_") && parts <= 2 {
        return Some(OutsideReference::SystemCatalog(text));
    }
    (parts > 1 + usize::from(column)).then_some(OutsideReference::Schema(text))
}

/// Whether the query locks the rows that it reads (`FOR UPDATE`).
fn is_locked(item: &SyntaxNode) -> bool {
    let select = item.ancestors().find(|it| it.kind() == SyntaxKind::SELECT);
    select.is_some_and(|it| it.children().any(|child| child.kind() == SyntaxKind::LOCKING_CLAUSE))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(sql: &str) -> Option<OutsideReference> {
        outside_reference(sql, &tokens(sql, Dialect::Postgres).unwrap())
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
            let is_found = matches!(found, Some(OutsideReference::Database(_) | OutsideReference::Extension));
            assert!(is_found, "{sql}: {found:?}");
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
            // The server shows whether the schema is a shared one.
            "CREATE TABLE a (b int REFERENCES public.p (id))",
            "ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES public.p (id)",
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
            assert!(matches!(of(sql), Some(OutsideReference::SystemCatalog(_))), "{sql}: {:?}", of(sql));
        }
    }

    #[test]
    fn a_catalog_read_for_all_projects_is_told() {
        for sql in [
            "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_type WHERE typname = 'mood') THEN CREATE TYPE mood AS ENUM ('a'); END IF; END $$",
            "DO $$ BEGIN PERFORM 1 FROM information_schema.columns WHERE table_name = 'a'; END $$",
            "INSERT INTO a SELECT 1 WHERE NOT EXISTS (SELECT FROM pg_tables WHERE tablename = 'b')",
        ] {
            assert!(matches!(of(sql), Some(OutsideReference::UnfilteredCatalog(_))), "{sql}: {:?}", of(sql));
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
