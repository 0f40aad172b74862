//! Sorts a catalog's migrations.
//!
//! diesel sorts versions as text. A folder that diesel can run as well has the same order here.

use std::collections::HashMap;

use super::Migration;
use crate::error::{Error, ErrorKind, Result};

/// The minimum number of digits of a version that is a date (`20240313`) and not a plain number.
const DATE_DIGITS: usize = 8;

/// How a set's versions are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// The set is only for tenantry: plain numbers are ordered as numbers.
    Numbers,
    /// diesel can run the folder as well: versions are ordered as text.
    Text,
    /// Another tool's folder, ordered as that tool does: all versions are numbers, or Flyway's numbers with points.
    Integers,
    /// Another tool's folder, ordered as that tool does: by the text of the version.
    PlainText,
}

/// Sorts migrations. Fails if two have the same version, or if the order is ambiguous.
///
/// Dates of different lengths are always ordered as text: `20240313` comes after `20240306170000`.
pub(super) fn sort(migrations: &mut [Migration], rule: Rule) -> Result<()> {
    refuse_duplicates(migrations, rule)?;
    match rule {
        Rule::Integers => {
            migrations.sort_by(|a, b| number(a.version.as_str()).cmp(&number(b.version.as_str())));
            return Ok(());
        }
        Rule::PlainText => {
            migrations.sort_by(|a, b| a.version.as_str().cmp(b.version.as_str()));
            return Ok(());
        }
        Rule::Numbers | Rule::Text => {}
    }
    if rule == Rule::Numbers && migrations.iter().all(|migration| is_plain_number(migration.version.as_str()))
    {
        migrations.sort_by(|a, b| number(a.version.as_str()).cmp(&number(b.version.as_str())));
        return Ok(());
    }
    refuse_mixed_lengths(migrations)?;
    migrations.sort_by(|a, b| a.version.as_str().cmp(b.version.as_str()));
    Ok(())
}

/// Sorts like the number that the digits are. Of a version with points, such as `1.10`, each part is a number, and zeros at
/// its end do not count.
pub(crate) fn number(version: &str) -> Vec<(usize, &str)> {
    let digits = version.split('.').map(|part| part.trim_start_matches('0'));
    let mut parts: Vec<_> = digits.map(|digits| (digits.len(), digits)).collect();
    while parts.pop_if(|(digits, _)| *digits == 0).is_some() {}
    parts
}

fn refuse_duplicates(migrations: &[Migration], rule: Rule) -> Result<()> {
    let mut by_version: HashMap<Vec<(usize, &str)>, &Migration> = HashMap::new();
    for migration in migrations {
        // As numbers, 1 and 01 are the same version.
        let version = migration.version.as_str();
        let is_number = rule == Rule::Integers || is_plain_number(version);
        let key = if is_number { number(version) } else { vec![(0, version)] };
        let Some(other) = by_version.insert(key, migration) else { continue };
        let message =
            format!("two migrations have the same version: {} and {}", other.label(), migration.label());
        let hint = match rule {
            Rule::Numbers | Rule::Text => {
                "rename one: the version is the folder's name up to the first _, without dashes"
            }
            Rule::Integers | Rule::PlainText => {
                "the version is the name up to the first _, also for the tool that these files are for, which would run only \
                 one of them: rename them, such as 20250115_001_notes.sql to 20250115001_notes.sql"
            }
        };
        return Err(Error::new(ErrorKind::Catalog, message).at(migration.up.path(), None).with_hint(hint));
    }
    Ok(())
}

fn refuse_mixed_lengths(migrations: &[Migration]) -> Result<()> {
    let numbers = || migrations.iter().filter(|migration| is_plain_number(migration.version.as_str()));
    let longest = numbers().map(|migration| migration.version.as_str().len()).max().unwrap_or(0);
    let Some(short) = numbers().find(|migration| migration.version.as_str().len() != longest) else {
        return Ok(());
    };
    let message = format!("version {} would run out of order: as text, 10 comes before 9", short.version);
    Err(Error::new(ErrorKind::Catalog, message).at(short.up.path(), None).with_hint(format!(
        "pad the plain numbers to {longest} digits: {:0>longest$}",
        short.version.as_str()
    )))
}

fn is_plain_number(version: &str) -> bool {
    version.len() < DATE_DIGITS && version.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Dialect;

    fn order(folders: &[&str], rule: Rule) -> crate::Result<Vec<String>> {
        let files =
            folders.iter().map(|folder| (format!("{folder}/up.sql").into(), b"SELECT 1;".to_vec())).collect();
        let mut migrations = crate::catalog::read::migrations(
            files,
            crate::catalog::script::ParseOptions::new(Dialect::Sqlite),
        )?;
        sort(&mut migrations, rule)?;
        Ok(migrations.iter().map(|migration| migration.version.to_string()).collect())
    }

    #[test]
    fn trap_4_plain_numbers_are_ordered_as_numbers() {
        assert_eq!(order(&["10_c", "9_b", "1_a"], Rule::Numbers).unwrap(), ["1", "9", "10"]);
        assert_eq!(order(&["10_b", "09_a"], Rule::Text).unwrap(), ["09", "10"]);
    }

    #[test]
    fn trap_4_plain_numbers_that_diesel_would_run_in_another_order_are_refused() {
        for folders in [&["9_a", "10_b"][..], &["1_a", "20240101_b", "10_c"]] {
            assert_eq!(order(folders, Rule::Text).unwrap_err().kind(), ErrorKind::Catalog, "{folders:?}");
        }
        assert!(order(&["1_a", "20240101_b", "10_c"], Rule::Numbers).is_err());
    }

    #[test]
    fn trap_4_duplicates_are_refused() {
        for folders in [&["1_a", "1_b"][..], &["01_a", "1_b"], &["2024-01-01_a", "20240101_b"]] {
            assert_eq!(order(folders, Rule::Numbers).unwrap_err().kind(), ErrorKind::Catalog, "{folders:?}");
        }
    }

    #[test]
    fn trap_4_dates_of_several_lengths_keep_the_order_of_their_text() {
        let folders = ["20240306170000_b", "20240313_c", "00000000000000_setup", "202403061700000001_d"];
        let sorted = ["00000000000000", "20240306170000", "202403061700000001", "20240313"];
        assert_eq!(order(&folders, Rule::Text).unwrap(), sorted);
        assert_eq!(order(&folders, Rule::Numbers).unwrap(), sorted);
    }
}
