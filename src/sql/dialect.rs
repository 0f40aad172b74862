//! The two dialects of SQL, and the expressions that they write in different ways.

/// A kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// SQLite: one file per project.
    Sqlite,
    /// Postgres: one schema per project.
    Postgres,
}

impl Dialect {
    /// Returns the dialect's name. It is used for the dialect's folder in a migration set, and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }

    /// Returns the hidden column that identifies a table's rows. It is stable only while nobody changes the rows.
    pub(crate) const fn row_id(self) -> &'static str {
        match self {
            Self::Sqlite => "rowid",
            Self::Postgres => "ctid",
        }
    }

    /// Returns the condition that selects the rows whose row ids `query` returns.
    pub(crate) fn rows_in(self, query: &str) -> String {
        match self {
            Self::Sqlite => format!("rowid IN ({query})"),
            // Postgres looks up the row ids of an array one by one. With IN it would read the whole table.
            Self::Postgres => format!("ctid = ANY (ARRAY({query}))"),
        }
    }

    /// Returns the statement that prevents others from changing a table's rows until the transaction ends.
    /// `None` if beginning the transaction already prevents that.
    pub(crate) fn lock_table(self, table: &str) -> Option<String> {
        match self {
            Self::Sqlite => None,
            Self::Postgres => Some(format!("LOCK TABLE {table} IN SHARE ROW EXCLUSIVE MODE")),
        }
    }

    /// Returns the expression for the bytes of a column as hexadecimal digits in lower case.
    pub(crate) fn hexadecimal(self, column: &str) -> String {
        match self {
            Self::Sqlite => format!("lower(hex({column}))"),
            Self::Postgres => format!("encode({column}, 'hex')"),
        }
    }

    /// Returns the condition that a column of dates and times is before a time, given in seconds since 1970.
    pub(crate) fn is_before(self, column: &str, seconds: u64) -> String {
        match self {
            Self::Sqlite => format!("unixepoch({column}) < {seconds}"),
            Self::Postgres => format!("{column} < to_timestamp({seconds})"),
        }
    }
}
