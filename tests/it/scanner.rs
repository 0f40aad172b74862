//! Splitting scripts into statements, compared with SQLite, which prepares one statement after another, and with the
//! scanner of `psql`, which is the server's. The scripts consist of text that is hard to scan, such as quotes, comments
//! and control characters.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use rusqlite::fallible_iterator::FallibleIterator as _;
use tenantry::Dialect;
use tenantry::internals::split;
use tenantry::internals::tokens;

use crate::faults::repeated;
use crate::world::World;

/// The parts of the scripts. Each `#` becomes a word that is unique in the script.
///
/// No two parts together begin a comment: `psql` sends comments along, so a word in one could not be compared.
fn pieces() -> Vec<&'static str> {
    let mut pieces = vec![
        " #",
        ";",
        " ",
        "\n",
        "\t",
        "\r",
        "\u{b}",
        "\u{c}",
        "\u{1}",
        "\r\n",
        "--;\n",
        "-- '\n",
        "--\r",
        "/*;*/",
        "/*\n'*/",
        "';'",
        "'\n;'",
        "'it''s;'",
        "\";\"",
        "\"a\"\";\"",
        "(",
        ")",
        "- ",
        "+",
        "*",
        "/ ",
        "---;\n",
        "//*;*/",
        ",",
        ".",
        "1.5e3",
        "15",
        "2a",
        "1e+3",
        "x';'",
        "\u{e9}",
        " # ",
        "\u{a0}",
    ];
    pieces.extend([
        "/* /* ; */ ; */",
        "$$;$$",
        "$t$;$$;$t$",
        "E'\\';'",
        "e'\\\\'",
        "'a' --x\n ';'",
        "$1",
        "b';'",
        "U&';'",
        "n';'",
    ]);
    pieces
}

fn postgres_script() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(pieces()), 1..30).prop_map(|pieces| {
        let mut number = 0;
        let named = |piece: &str| {
            number += 1;
            // Spaces keep adjacent words apart.
            piece.replace('#', &format!(" m{number} "))
        };
        pieces.into_iter().map(named).collect()
    })
}

/// The unique words in a statement.
fn words(sql: &str) -> Vec<String> {
    let parts = sql.split(|it: char| !it.is_ascii_alphanumeric());
    let is_word = |part: &&str| part.strip_prefix('m').is_some_and(|number| number.parse::<u32>().is_ok());
    parts.filter(is_word).map(Into::into).collect()
}

fn runner() -> TestRunner {
    TestRunner::new(Config { cases: repeated(160), failure_persistence: None, ..Config::default() })
}

#[test]
fn a_script_is_taken_apart_as_psql_does_it() {
    let world = World::postgres();
    let directory = tempfile::tempdir().unwrap();
    let (file, log) = (directory.path().join("script.sql"), directory.path().join("log"));
    let by_psql = |script: &str| {
        drop(std::fs::remove_file(&log));
        std::fs::write(&file, script).unwrap();
        let mut psql = world.database().psql(None);
        // The results of the statements do not matter.
        psql.args(["-v", "ON_ERROR_STOP=0", "-L", log.to_str().unwrap(), "-f", file.to_str().unwrap()]);
        psql.output().unwrap();
        let logged = std::fs::read(&log).unwrap_or_default();
        let logged = String::from_utf8_lossy(&logged).into_owned();
        let parts = logged.split("********* QUERY **********").skip(1);
        let statements =
            parts.map(|part| words(part.split("**************************").next().unwrap_or_default()));
        statements.filter(|words| !words.is_empty()).collect::<Vec<_>>()
    };
    let result = runner().run(&postgres_script(), |script| {
        let Ok(statements) = split(&script, Dialect::Postgres) else { return Ok(()) };
        // A backslash outside a string begins a command of `psql` itself.
        let is_command =
            tokens(&script, Dialect::Postgres).is_ok_and(|it| it.iter().any(|it| it.is_symbol("\\")));
        prop_assume!(!is_command);
        let actual: Vec<_> =
            statements.iter().map(|it| words(&it.sql)).filter(|words| !words.is_empty()).collect();
        prop_assert_eq!(actual, by_psql(&script), "{:?}", script);
        Ok(())
    });
    result.unwrap();
}

/// Statements that SQLite accepts, with white space and comments in between.
fn sqlite_script() -> impl Strategy<Value = String> {
    let between =
        [" ", "\n", "\t", "\r", "\u{c}", "--;\n", "-- '\r;\n", "/*;*/", "/*\n' /* ; */", "\u{feff}"];
    let blank = || {
        prop::collection::vec(prop::sample::select(between.to_vec()), 0..4)
            .prop_map(|it| format!(" {}", it.concat()))
    };
    let value = prop::sample::select(vec![
        "';'",
        "'it''s;'",
        "'\n;'",
        "'\r;\u{1}'",
        "\";\"",
        "\"a\"\";\"",
        "1 AS [;]",
        "1 AS `;`",
        "x'3b'",
        "1.5e-3",
        "1--;\n+1",
        "-1",
        "'\u{e9}'",
    ]);
    let values = prop::collection::vec((blank(), value, blank()), 0..4);
    let select = (blank(), values).prop_map(|(before, values)| {
        let values = values.into_iter().map(|(before, value, after)| format!(",{before}{value}{after}"));
        format!("{before}SELECT '#'{}", values.collect::<String>())
    });
    let trigger = (blank(), select.clone(), blank()).prop_map(|(before, body, after)| {
        format!("{before}CREATE{before}TEMP TRIGGER{after}\"#\" AFTER INSERT ON t BEGIN{before}{body}{after};{before}END")
    });
    let table = blank().prop_map(|before| format!("{before}CREATE TEMP TABLE \"#\" (begin atomic, \"end\")"));
    let statement = prop_oneof![4 => select, 1 => trigger, 1 => table];
    prop::collection::vec((statement, blank()), 1..6).prop_map(|statements| {
        let mut number = 0;
        let named = |(statement, after): (String, String)| {
            number += 1;
            format!(
                "{};{after}",
                statement.replacen('#', &format!("m{number}"), 1).replace('#', &format!("m{number}x"))
            )
        };
        statements.into_iter().map(named).collect()
    })
}

#[test]
fn a_script_is_taken_apart_as_sqlite_does_it() {
    let result = runner().run(&sqlite_script(), |script| {
        let connection = rusqlite::Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE t (a)").unwrap();
        let (mut expected, mut batch) = (Vec::new(), rusqlite::Batch::new(&connection, &script));
        loop {
            match batch.next() {
                Ok(Some(mut statement)) => {
                    let text = statement.expanded_sql().unwrap_or_default();
                    drop(statement.raw_query().next());
                    expected.push(words(&text));
                }
                Ok(None) => break,
                Err(error) => return Err(TestCaseError::fail(format!("{error}: {script:?}"))),
            }
        }
        expected.retain(|words| !words.is_empty());
        let statements = split(&script, Dialect::Sqlite).unwrap();
        let actual: Vec<_> =
            statements.iter().map(|it| words(&it.sql)).filter(|words| !words.is_empty()).collect();
        prop_assert_eq!(actual, expected, "{:?}", script);
        Ok(())
    });
    result.unwrap();
}
