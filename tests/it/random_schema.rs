//! Random schemas in pairs, the second one changed from the first, with the rows of the first.
//!
//! Every change leaves the rows valid: numbers are written as digits, values differ in each row, no value is NULL.

use std::fmt::Write as _;

/// A source of random numbers that is the same for each seed.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

#[derive(Clone)]
struct Column {
    name: String,
    kind: &'static str,
    not_null: bool,
    default: Option<&'static str>,
    unique: bool,
    check: bool,
    references: Option<String>,
}

#[derive(Clone)]
struct Table {
    name: String,
    columns: Vec<Column>,
    has_check: bool,
    autoincrement: bool,
}

/// A schema. The rows are those of the tables that it began with.
#[derive(Clone)]
pub(crate) struct Model {
    is_postgres: bool,
    tables: Vec<Table>,
    /// Index, table, column, whether it is unique.
    indexes: Vec<(String, String, String, bool)>,
    /// View, table, column.
    views: Vec<(String, String, String)>,
    /// Trigger, table.
    triggers: Vec<(String, String)>,
    labels: Vec<&'static str>,
    sequence_step: usize,
    function_body: usize,
    count: usize,
    /// The number of the last name that the rows know.
    last_with_rows: usize,
}

const KINDS: [&str; 4] = ["INTEGER", "TEXT", "NUMERIC(12, 2)", "mood"];

impl Model {
    pub(crate) fn new(random: &mut Random, is_postgres: bool) -> Self {
        let mut model = Self {
            is_postgres,
            tables: Vec::new(),
            indexes: Vec::new(),
            views: Vec::new(),
            triggers: Vec::new(),
            labels: vec!["1", "2", "3"],
            sequence_step: 1,
            function_body: 0,
            count: 0,
            last_with_rows: 0,
        };
        for _ in 0..2 + random.below(3) {
            model.add_table(random);
        }
        for _ in 0..random.below(3) {
            model.add_index(random);
        }
        for _ in 0..random.below(3) {
            model.add_view(random);
        }
        for _ in 0..random.below(2) {
            model.add_trigger(random);
        }
        model.last_with_rows = model.count;
        model
    }

    fn name(&mut self, prefix: &str) -> String {
        self.count += 1;
        format!("{prefix}{}", self.count)
    }

    fn column(&mut self, random: &mut Random) -> Column {
        let kinds = if self.is_postgres { 4 } else { 3 };
        let kind = KINDS[random.below(kinds)];
        let default = random.chance(40).then_some("'1'");
        let not_null = default.is_some() && random.chance(50);
        let references =
            (kind == "INTEGER" && !self.tables.is_empty() && default.is_none() && random.chance(40))
                .then(|| random.pick(&self.tables).name.clone());
        let unique = random.chance(15) && default.is_none();
        let check = random.chance(20) && kind == "INTEGER";
        Column { name: self.name("c"), kind, not_null, default, unique, check, references }
    }

    fn add_table(&mut self, random: &mut Random) {
        let name = self.name("t");
        let columns = (0..=random.below(4)).map(|_| self.column(random)).collect();
        let (has_check, autoincrement) = (random.chance(20), random.chance(50));
        self.tables.push(Table { name, columns, has_check, autoincrement });
    }

    fn place(&self, random: &mut Random) -> Option<(String, String)> {
        let table = random.pick(&self.tables);
        (!table.columns.is_empty()).then(|| (table.name.clone(), random.pick(&table.columns).name.clone()))
    }

    fn add_index(&mut self, random: &mut Random) {
        if let Some((table, column)) = self.place(random) {
            let name = self.name("i");
            let columns = self.tables.iter().flat_map(|it| &it.columns);
            let is_distinct = columns.filter(|it| it.name == column).all(|it| it.default.is_none());
            self.indexes.push((name, table, column, is_distinct && random.chance(40)));
        }
    }

    fn add_view(&mut self, random: &mut Random) {
        if let Some((table, column)) = self.place(random) {
            let name = self.name("v");
            self.views.push((name, table, column));
        }
    }

    fn add_trigger(&mut self, random: &mut Random) {
        let table = random.pick(&self.tables).name.clone();
        let name = self.name("g");
        self.triggers.push((name, table));
    }

    /// Removes what uses a table or a column of it.
    fn forget(&mut self, table: &str, column: Option<&str>) {
        let uses = |its_table: &String, its_column: &String| {
            its_table == table && column.is_none_or(|it| it == its_column)
        };
        self.indexes.retain(|(_, table, column, _)| !uses(table, column));
        self.views.retain(|(_, table, column)| !uses(table, column));
        if column.is_none() {
            self.triggers.retain(|(_, its_table)| its_table != table);
            for other in &mut self.tables {
                for column in &mut other.columns {
                    column.references.take_if(|it| it == table);
                }
            }
        }
    }

    /// Changes one thing. Returns a renaming, if it is one.
    pub(crate) fn change(&mut self, random: &mut Random, may_rename: bool) -> Option<String> {
        let at = random.below(self.tables.len());
        let table = self.tables[at].name.clone();
        let width = self.tables[at].columns.len();
        let column = (width > 0).then(|| random.below(width));
        match (if may_rename && random.chance(30) { 18 } else { random.below(18) }, column) {
            (0, _) => self.add_table(random),
            (1, _) if self.tables.len() > 2 => {
                self.tables.remove(at);
                self.forget(&table, None);
            }
            (2 | 3, _) => {
                let column = self.column(random);
                self.tables[at].columns.push(column);
            }
            (4, Some(column)) if width > 1 => {
                let column = self.tables[at].columns.remove(column).name;
                self.forget(&table, Some(&column));
            }
            (5, Some(column)) => {
                let column = &mut self.tables[at].columns[column];
                if column.references.is_none() && !column.check {
                    column.kind = if column.kind == "TEXT" { "INTEGER" } else { "TEXT" };
                }
            }
            (6, Some(column)) => {
                let last_with_rows = self.last_with_rows;
                let column = &mut self.tables[at].columns[column];
                let has_rows = column.name[1..].parse::<usize>().unwrap() <= last_with_rows;
                column.not_null = !column.not_null && (has_rows || column.default.is_some());
            }
            (7, Some(column)) => {
                let column = &mut self.tables[at].columns[column];
                if column.references.is_none() && !column.unique {
                    column.default = if column.default.is_none() { Some("'1'") } else { None };
                    column.not_null &= column.default.is_some();
                }
            }
            (8, Some(column)) => {
                let column = &mut self.tables[at].columns[column];
                column.unique = !column.unique && column.default.is_none();
            }
            (9, Some(column)) => {
                let column = &mut self.tables[at].columns[column];
                column.check = !column.check && column.kind == "INTEGER";
            }
            (10, Some(column)) => {
                let parent = random.pick(&self.tables).name.clone();
                let column = &mut self.tables[at].columns[column];
                column.references =
                    if column.references.is_some() || column.kind != "INTEGER" || column.default.is_some() {
                        None
                    } else {
                        Some(parent)
                    };
            }
            (11, _) => self.add_index(random),
            (12, _) => drop(self.indexes.pop()),
            (13, _) => self.add_view(random),
            (14, _) => drop(self.views.pop()),
            (15, _) => self.add_trigger(random),
            (16, _) => drop(self.triggers.pop()),
            (17, _) => {
                self.tables[at].has_check ^= true;
                self.sequence_step += 1;
                self.function_body += random.below(2);
                if self.labels.len() == 3 {
                    self.labels.insert(random.below(4), "4");
                } else {
                    self.labels.retain(|label| *label != "4");
                }
            }
            (18, Some(column)) => {
                let new = self.name("r");
                let old = std::mem::replace(&mut self.tables[at].columns[column].name, new.clone());
                let places = self.indexes.iter_mut().map(|it| (&it.1, &mut it.2));
                for (its_table, its_column) in
                    places.chain(self.views.iter_mut().map(|it| (&it.1, &mut it.2)))
                {
                    if *its_table == table && *its_column == old {
                        its_column.clone_from(&new);
                    }
                }
                return Some(format!("{table}.{old}={new}"));
            }
            _ => {}
        }
        None
    }

    /// The statements that create it.
    pub(crate) fn sql(&self) -> String {
        let mut sql = String::new();
        if self.is_postgres {
            let labels: Vec<String> = self.labels.iter().map(|label| format!("'{label}'")).collect();
            let _ = writeln!(sql, "CREATE TYPE mood AS ENUM ({});", labels.join(", "));
            let _ = writeln!(sql, "CREATE SEQUENCE numbers INCREMENT BY {};", self.sequence_step);
            let _ = writeln!(
                sql,
                "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE DEBUG '{}'; RETURN new; END $$;",
                self.function_body
            );
        }
        let mut late = String::new();
        for table in &self.tables {
            let id = match (self.is_postgres, table.autoincrement) {
                (false, true) => "id INTEGER PRIMARY KEY AUTOINCREMENT",
                (false, false) => "id INTEGER PRIMARY KEY",
                (true, true) => "id SERIAL PRIMARY KEY",
                (true, false) => "id INTEGER GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY",
            };
            let mut items = vec![id.to_string()];
            for column in &table.columns {
                let mut item = format!("{} {}", column.name, column.kind);
                if column.not_null {
                    item += " NOT NULL";
                }
                if let Some(default) = column.default {
                    let _ = write!(item, " DEFAULT {default}");
                }
                if column.unique {
                    item += " UNIQUE";
                }
                if column.check {
                    let _ = write!(item, " CHECK ({} < 1000)", column.name);
                }
                match &column.references {
                    Some(parent) if self.is_postgres => {
                        let _ = writeln!(
                            late,
                            "ALTER TABLE {} ADD FOREIGN KEY ({}) REFERENCES {parent} (id);",
                            table.name, column.name
                        );
                    }
                    Some(parent) => {
                        let _ = write!(item, " REFERENCES {parent} (id)");
                    }
                    None => {}
                }
                items.push(item);
            }
            if table.has_check {
                items.push("CHECK (id < 100000)".into());
            }
            let _ = writeln!(sql, "CREATE TABLE {} ({});", table.name, items.join(", "));
        }
        sql += &late;
        for (name, table, column, unique) in &self.indexes {
            let unique = if *unique { "UNIQUE " } else { "" };
            let _ = writeln!(sql, "CREATE {unique}INDEX {name} ON {table} ({column});");
        }
        for (name, table, column) in &self.views {
            let _ = writeln!(
                sql,
                "CREATE VIEW {name} AS SELECT id, {column} FROM {table} WHERE {column} IS NOT NULL;"
            );
        }
        for (name, table) in &self.triggers {
            let body = if self.is_postgres {
                "FOR EACH ROW EXECUTE FUNCTION touch()"
            } else {
                "BEGIN SELECT 1; END"
            };
            let _ = writeln!(sql, "CREATE TRIGGER {name} BEFORE INSERT ON {table} {body};");
        }
        sql
    }

    /// Statements that insert three rows into each table.
    pub(crate) fn rows(&self) -> String {
        let mut sql = String::new();
        let mut references = String::new();
        for table in &self.tables {
            for row in 1..=3 {
                let own: Vec<&Column> = table.columns.iter().filter(|it| it.references.is_none()).collect();
                let names: Vec<String> = own.iter().map(|it| format!(", {}", it.name)).collect();
                let names = names.concat();
                let values = format!(", '{row}'").repeat(own.len());
                let _ = writeln!(sql, "INSERT INTO {} (id{names}) VALUES ({row}{values});", table.name);
            }
            for column in table.columns.iter().filter(|it| it.references.is_some()) {
                let _ = writeln!(references, "UPDATE {} SET {} = id;", table.name, column.name);
            }
        }
        sql + &references
    }

    /// Queries of the columns that both schemas have, by the names that each has for them.
    pub(crate) fn common(&self, other: &Self, renames: &[String]) -> Vec<(String, String)> {
        let mut queries = Vec::new();
        for table in &self.tables {
            let Some(after) = other.tables.iter().find(|it| it.name == table.name) else { continue };
            for column in &table.columns {
                let mut name = column.name.clone();
                for rename in renames {
                    let (from, to) = rename.split_once('=').unwrap();
                    if from == format!("{}.{name}", table.name) {
                        name = to.into();
                    }
                }
                if after.columns.iter().any(|it| it.name == name) {
                    let query = |column: &str| {
                        format!("SELECT CAST({column} AS TEXT) FROM {} ORDER BY id", table.name)
                    };
                    queries.push((query(&column.name), query(&name)));
                }
            }
        }
        queries
    }
}
