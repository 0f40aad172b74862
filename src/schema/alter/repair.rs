//! The SQL that brings a drifted schema to the expected one, object by object, where that loses nothing.

#[cfg(feature = "postgres")]
use super::postgres_repair;
use super::repair_object::{ExtraCode, Repaired, Surroundings};
use super::{Alteration, Blocking, Definitions, alter, sqlite_repair};
use crate::sql::Dialect;

/// What a schema needs, and what it needs but does not get.
#[derive(Clone, Debug, Default)]
pub(crate) struct Repairs {
    pub(crate) steps: Vec<RepairStep>,
    /// What is left as it is, each with the reason.
    pub(crate) refused: Vec<String>,
}

/// The statements that repair one object. They run together or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepairStep {
    /// The object, such as `table notes`.
    pub(crate) object: String,
    pub(crate) statements: Vec<String>,
}

/// Writes the SQL that makes a schema the expected one. Tables and columns that are not expected stay with their rows, and what
/// is ignored stays as it is.
pub(crate) fn repairs(
    dialect: Dialect,
    found: &Definitions,
    expected: &Definitions,
    extra: ExtraCode,
) -> Repairs {
    let (found, expected) = (&found.compared(dialect), &expected.compared(dialect));
    let mut repairs = Repairs::default();
    let mut now = found.clone();
    let missing = expected.statements.iter().map(|sql| (sql, true));
    for (sql, is_expected) in missing.chain(found.statements.iter().map(|sql| (sql, false))) {
        let surroundings = Surroundings { found, now: &now, expected, extra, refused: &mut repairs.refused };
        let repaired = match dialect {
            Dialect::Sqlite if is_expected => sqlite_repair::add(sql, surroundings),
            Dialect::Sqlite => sqlite_repair::remove(sql, surroundings),
            #[cfg(feature = "postgres")]
            Dialect::Postgres if is_expected => postgres_repair::add(sql, surroundings),
            #[cfg(feature = "postgres")]
            Dialect::Postgres => postgres_repair::remove(sql, surroundings),
            #[cfg(not(feature = "postgres"))]
            Dialect::Postgres => None,
        };
        let Some(Repaired { object, statements, key }) = repaired else { continue };
        let schema = now.schema.with_object_of(&expected.schema, key);
        let after = Definitions { schema: schema.into(), statements };
        let Alteration { parts, refused } = alter(dialect, &now, &after, Blocking::OneTransaction);
        let statements: Vec<String> = parts.into_iter().flat_map(|part| part.statements).collect();
        if refused.is_empty() && !statements.is_empty() {
            repairs.steps.push(RepairStep { object, statements });
            now = after;
        }
        repairs.refused.extend(refused);
    }
    repairs
}
