//! Translates hints. Errors are written with hints in terms of the command line; users of the library get the calls
//! that do the same.

/// Commands and the equivalent calls. A command comes before every other command that is a prefix of it.
const CALLS: [(&str, &str); 18] = [
    ("backup create", "Manager::backup"),
    ("backup list", "Manager::backups"),
    ("backup restore", "Manager::restore"),
    ("runs list", "Journal::for_each_entry"),
    ("runs show", "Journal::events"),
    ("audit show", "Journal::for_each_entry"),
    ("audit anchor", "Journal::verify"),
    ("migration new", "a new migration"),
    ("doctor --clean", "Manager::sweep"),
    ("upgrade-all", "Manager::upgrade_all"),
    ("upgrade", "Manager::upgrade"),
    ("downgrade", "Manager::downgrade"),
    ("create", "Manager::create"),
    ("status", "Manager::status"),
    ("stamp", "Manager::stamp"),
    ("adopt", "Request::Adopt"),
    ("list", "Manager::list"),
    ("init", "Catalog::from_directory"),
];

/// Options and the equivalent settings of the library.
const SETTINGS: [(&str, &str); 11] = [
    ("--allow-drift", "IfDrifted::Keep"),
    ("--allow-row-loss", "Run::allow_row_loss"),
    ("--backup-dir", "Manager::with_archive"),
    ("--lock-timeout", "the store's lock_timeout"),
    ("--statement-timeout", "the store's statement_timeout"),
    ("--reconnect-timeout", "the store's reconnect_timeout"),
    ("--jobs", "Manager::with_jobs"),
    ("--migrations DIR", "Catalog::from_directory"),
    ("--no-stamp", "IfNoLedger::Refuse"),
    ("--pattern", "the store's pattern"),
    ("--force", "IfInUse::Force, or force of Request::Stamp"),
];

/// Returns a hint for the command line in terms of the library.
pub(crate) fn for_library(hint: &str) -> String {
    let mut text = String::with_capacity(hint.len());
    let mut remaining = hint;
    while let Some(at) = remaining.find("tenantry ") {
        let (before, after) = remaining.split_at(at);
        text.push_str(before);
        let after = &after["tenantry ".len()..];
        let is_whole_word =
            |name: &str| after[name.len()..].chars().next().is_none_or(|next| !next.is_alphanumeric());
        let call = CALLS.iter().find(|(name, _)| after.starts_with(name) && is_whole_word(name));
        let Some((name, call)) = call else {
            text.push_str("tenantry ");
            remaining = after;
            continue;
        };
        text.push_str(call);
        // The command's arguments are dropped too.
        let arguments = &after[name.len()..];
        remaining = &arguments[arguments.find([';', ',', ')']).unwrap_or(arguments.len())..];
    }
    text.push_str(remaining);
    SETTINGS.iter().fold(text, |text, (option, setting)| text.replace(option, setting))
}

#[cfg(test)]
mod tests {
    use super::for_library;

    #[test]
    fn a_librarys_user_is_told_of_its_calls() {
        for (command, library) in [
            (
                "see which there are: tenantry list; or make it: tenantry create ID",
                "see which there are: Manager::list; or make it: Manager::create",
            ),
            ("to undo it: tenantry backup restore 1 --from 1/x", "to undo it: Manager::restore"),
            (
                "upgrade it as it is, keeping the difference: --allow-drift",
                "upgrade it as it is, keeping the difference: IfDrifted::Keep",
            ),
            ("its schema is as tenantry left it", "its schema is as tenantry left it"),
            ("tenantry works with Postgres 13 and later", "tenantry works with Postgres 13 and later"),
        ] {
            assert_eq!(for_library(command), library);
        }
    }
}
