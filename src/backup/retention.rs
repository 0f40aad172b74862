//! Selects the backups that may be removed. Does not remove them.

use std::collections::HashSet;
use std::time::Duration;

use super::archive::Backup;
use super::manifest::Reason;

/// Which backups of a project are kept. A backup is kept if any of these rules applies to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionPolicy {
    last: usize,
    daily: usize,
    weekly: usize,
    monthly: usize,
    within: Option<Duration>,
}

impl RetentionPolicy {
    /// Keeps this number of newest backups.
    #[must_use]
    pub fn last(self, last: usize) -> Self {
        Self { last, ..self }
    }

    /// Keeps the newest backup of each day, for this number of most recent days with a backup.
    #[must_use]
    pub fn daily(self, daily: usize) -> Self {
        Self { daily, ..self }
    }

    /// Keeps the newest backup of each week, for this number of most recent weeks with a backup.
    #[must_use]
    pub fn weekly(self, weekly: usize) -> Self {
        Self { weekly, ..self }
    }

    /// Keeps the newest backup of each month, for this number of most recent months with a backup.
    #[must_use]
    pub fn monthly(self, monthly: usize) -> Self {
        Self { monthly, ..self }
    }

    /// Keeps every backup younger than this.
    #[must_use]
    pub fn within(self, within: Duration) -> Self {
        Self { within: Some(within), ..self }
    }

    /// Whether no rule is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns which of a project's backups may be removed. `backups` is sorted, oldest first.
    ///
    /// These backups are always kept: the newest; the newest verified one; the newest of each reason that an undo
    /// needs; the newest before an upgrade from each version. A backup whose last check failed is kept for an
    /// investigation, and does not count as any of these.
    #[must_use]
    pub fn surplus<'a>(&self, backups: &'a [Backup]) -> Vec<&'a Backup> {
        let mut kept_names: HashSet<&str> = HashSet::new();
        // A backup whose last check failed cannot be relied on.
        let newest_first = || backups.iter().rev().filter(|backup| backup.failed.is_none());
        let mut keep =
            |backup: Option<&'a Backup>| kept_names.extend(backup.map(|backup| backup.name.as_str()));
        keep(newest_first().next());
        keep(newest_first().find(|backup| backup.verified.is_some_and(|it| it.level >= 3)));
        keep(newest_first().find(|backup| backup.verified.is_some()));
        let undo = [Reason::BeforeUpgrade, Reason::BeforeRestore, Reason::BeforeRollback, Reason::BeforeDrop];
        for reason in undo {
            keep(newest_first().find(|backup| backup.manifest.reason == reason));
        }
        // Undoing a run needs the backup that has the ledger from before the run.
        let mut ledgers = HashSet::new();
        let before_upgrades = newest_first().filter(|it| it.manifest.reason == Reason::BeforeUpgrade);
        before_upgrades
            .filter(|it| ledgers.insert(&it.manifest.ledger))
            .for_each(|backup| keep(Some(backup)));
        newest_first().take(self.last).for_each(|backup| keep(Some(backup)));
        if let Some(within) = self.within {
            newest_first()
                .filter(|it| it.manifest.taken_at.age() < within)
                .for_each(|backup| keep(Some(backup)));
        }
        let mut keep_by = |count: usize, period: &dyn Fn(&Backup) -> (i32, u8)| {
            let mut periods = HashSet::new();
            let newest_of_each = newest_first().filter(|backup| periods.insert(period(backup)));
            newest_of_each.take(count).for_each(|backup| keep(Some(backup)));
        };
        keep_by(self.daily, &|it| (it.manifest.taken_at.date().to_julian_day(), 0));
        keep_by(self.weekly, &|it| {
            let (year, week, _) = it.manifest.taken_at.date().to_iso_week_date();
            (year, week)
        });
        keep_by(self.monthly, &|it| {
            let date = it.manifest.taken_at.date();
            (date.year(), date.month().into())
        });
        let is_surplus =
            |backup: &&Backup| backup.failed.is_none() && !kept_names.contains(backup.name.as_str());
        backups.iter().filter(is_surplus).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::backup::{DataFile, LastCheck, Manifest};
    use crate::time::Timestamp;

    fn backup(taken_at: &str, reason: Reason, is_verified: bool) -> Backup {
        let taken_at = Timestamp::parse(taken_at).unwrap();
        Backup {
            name: taken_at.to_string(),
            manifest: Manifest {
                format: 1,
                tenantry: String::new(),
                database: String::new(),
                store: String::new(),
                project: "1".parse().unwrap(),
                place: String::new(),
                taken_at,
                label: None,
                reason,
                run: String::new(),
                file: DataFile { size: 0, sha256: String::new(), unpacked: 0 },
                ledger: BTreeMap::new(),
                schema: String::new(),
                tables: BTreeMap::new(),
                properties: BTreeMap::new(),
                needs: Vec::new(),
                access: Vec::new(),
            },
            verified: is_verified.then_some(LastCheck { level: 3, at: taken_at }),
            failed: None,
        }
    }

    fn kept(policy: RetentionPolicy, backups: &[Backup]) -> Vec<&str> {
        let surplus: Vec<_> = policy.surplus(backups).into_iter().map(|it| &it.name).collect();
        backups.iter().filter(|it| !surplus.contains(&&it.name)).map(|it| &it.name[..16]).collect()
    }

    #[test]
    fn days_weeks_and_months_keep_their_newest() {
        let times = [
            "2026-09-30 12:00",
            "2026-10-31 12:00",
            "2026-11-01 12:00",
            "2026-11-08 12:00",
            "2026-11-09 01:00",
            "2026-11-09 02:00",
            "2026-11-10 01:00",
        ];
        let all: Vec<_> = times.iter().map(|time| backup(time, Reason::Asked, false)).collect();
        assert_eq!(
            kept(RetentionPolicy { last: 2, ..RetentionPolicy::default() }, &all),
            ["2026-11-09T02:00", "2026-11-10T01:00"]
        );
        assert_eq!(
            kept(RetentionPolicy { daily: 2, ..RetentionPolicy::default() }, &all),
            ["2026-11-09T02:00", "2026-11-10T01:00"]
        );
        assert_eq!(
            kept(RetentionPolicy { weekly: 2, ..RetentionPolicy::default() }, &all),
            ["2026-11-08T12:00", "2026-11-10T01:00"]
        );
        assert_eq!(
            kept(RetentionPolicy { monthly: 9, ..RetentionPolicy::default() }, &all),
            ["2026-09-30T12:00", "2026-10-31T12:00", "2026-11-10T01:00"]
        );
        let within = RetentionPolicy {
            within: Some(Duration::from_hours(400 * 365 * 24)),
            ..RetentionPolicy::default()
        };
        assert_eq!(kept(within, &all).len(), 7);
    }

    #[test]
    fn the_newest_the_last_verified_and_what_an_undo_needs_always_stay() {
        let all = [
            backup("2026-01-01", Reason::BeforeUpgrade, false),
            backup("2026-01-02", Reason::BeforeUpgrade, false),
            backup("2026-01-03", Reason::Asked, true),
            backup("2026-01-04", Reason::BeforeRestore, false),
            backup("2026-01-05", Reason::Asked, false),
            backup("2026-01-06", Reason::Asked, false),
        ];
        let days: Vec<_> =
            kept(RetentionPolicy::default(), &all).iter().map(|it| it[8..10].to_string()).collect();
        assert_eq!(days, ["02", "03", "04", "06"]);
    }
}
