//! Which shard of a fleet a task of a scheduler's job takes.

use crate::error::{Error, ErrorKind, Result};
use crate::project::Shard;

/// The shard that one task of a scheduler's job takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobShard {
    /// The shard.
    pub shard: Shard,
    /// The name that all tasks of the job have in common.
    pub group: Option<String>,
}

/// The variables by which a scheduler tells a task its place.
struct Scheduler {
    name: &'static str,
    index: &'static str,
    /// The variable with the first index; `None` if it is 0.
    first: Option<&'static str>,
    count: &'static str,
    group: &'static str,
}

const SCHEDULERS: [Scheduler; 4] = [
    Scheduler {
        name: "Slurm",
        index: "SLURM_ARRAY_TASK_ID",
        first: Some("SLURM_ARRAY_TASK_MIN"),
        count: "SLURM_ARRAY_TASK_COUNT",
        group: "SLURM_ARRAY_JOB_ID",
    },
    // Kubernetes tells a pod neither the number of pods nor the job. The job's manifest can.
    Scheduler {
        name: "Kubernetes",
        index: "JOB_COMPLETION_INDEX",
        first: None,
        count: "TENANTRY_SHARDS",
        group: "TENANTRY_GROUP",
    },
    Scheduler {
        name: "AWS Batch",
        index: "AWS_BATCH_JOB_ARRAY_INDEX",
        first: None,
        count: "AWS_BATCH_JOB_ARRAY_SIZE",
        group: "AWS_BATCH_JOB_ID",
    },
    Scheduler {
        name: "Cloud Run",
        index: "CLOUD_RUN_TASK_INDEX",
        first: None,
        count: "CLOUD_RUN_TASK_COUNT",
        group: "CLOUD_RUN_EXECUTION",
    },
];

impl JobShard {
    /// Returns the shard that a scheduler's variables say: those of a Slurm array, a Kubernetes Indexed Job, an AWS Batch
    /// array or Cloud Run. `variable` looks up environment variables.
    ///
    /// Fails with [`ErrorKind::Usage`] if there are none, or if they do not say how many shards there are.
    pub fn of_scheduler(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let Some(scheduler) = SCHEDULERS.iter().find(|it| variable(it.index).is_some()) else {
            let names: Vec<_> = SCHEDULERS.iter().map(|it| format!("{} ({})", it.name, it.index)).collect();
            return Err(Error::new(ErrorKind::Usage, "no scheduler says which shard of a job this is")
                .with_hint(format!(
                    "--shard auto reads the variables of {}; else use --shard N/T",
                    names.join(", ")
                )));
        };
        let number = |name: &str| -> Result<u64> {
            let text = variable(name).ok_or_else(|| {
                Error::new(ErrorKind::Usage, format!("{} does not set {name}", scheduler.name))
                    .with_hint(format!("set {name} to the number of shards, or use --shard N/T"))
            })?;
            text.parse().map_err(|_| Error::new(ErrorKind::Usage, format!("{name}={text} is not a number")))
        };
        let (index, of) = (number(scheduler.index)?, number(scheduler.count)?);
        let first = scheduler.first.map_or(Ok(0), number)?;
        // An array such as 1,5,9 or 0-14:7 has indexes with gaps.
        let part = index.checked_sub(first).filter(|part| *part < of).ok_or_else(|| {
            Error::new(ErrorKind::Usage, format!("{}={index} is not one of {of} in a row", scheduler.index))
                .with_hint("give the job an array without gaps, such as 1-8")
        })?;
        let group = variable(scheduler.group).map(|group| match scheduler.name {
            // The id of a task of an array is that of the job and its index.
            "AWS Batch" => group.split(':').next().unwrap_or_default().to_string(),
            _ => group,
        });
        Ok(Self { shard: Shard { part: part + 1, of }, group })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_scheduler_says_its_part() {
        let of = |variables: &[(&str, &str)]| {
            JobShard::of_scheduler(|name| {
                variables.iter().find(|(it, _)| *it == name).map(|(_, value)| (*value).to_string())
            })
        };
        let said = |variables: &[(&str, &str)]| {
            let JobShard { shard, group } = of(variables).unwrap();
            format!("{shard} {}", group.unwrap_or_default())
        };
        let slurm = |index: &'static str| {
            [
                ("SLURM_ARRAY_TASK_ID", index),
                ("SLURM_ARRAY_TASK_MIN", "3"),
                ("SLURM_ARRAY_TASK_COUNT", "4"),
                ("SLURM_ARRAY_JOB_ID", "77"),
            ]
        };
        assert_eq!((said(&slurm("3")), said(&slurm("6"))), ("1/4 77".into(), "4/4 77".into()));
        assert!(of(&slurm("9")).unwrap_err().to_string().contains("not one of 4 in a row"));
        let pod = [("JOB_COMPLETION_INDEX", "0"), ("TENANTRY_SHARDS", "8"), ("TENANTRY_GROUP", "up")];
        assert_eq!(said(&pod), "1/8 up");
        assert!(of(&pod[..1]).unwrap_err().to_string().contains("does not set TENANTRY_SHARDS"));
        let batch = [
            ("AWS_BATCH_JOB_ARRAY_INDEX", "7"),
            ("AWS_BATCH_JOB_ARRAY_SIZE", "8"),
            ("AWS_BATCH_JOB_ID", "ab:7"),
        ];
        assert_eq!(said(&batch), "8/8 ab");
        let run =
            [("CLOUD_RUN_TASK_INDEX", "1"), ("CLOUD_RUN_TASK_COUNT", "2"), ("CLOUD_RUN_EXECUTION", "up-x")];
        assert_eq!(said(&run), "2/2 up-x");
        assert!(of(&[]).is_err());
    }
}
