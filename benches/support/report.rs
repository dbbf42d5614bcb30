//! The table on stdout and the JSON file: medians, and their ratios to the subject that a workload is measured by, which is
//! the native disk where nothing else is said.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context;
use serde_json::{Map, Value, json};

use super::measure::{Sample, median};

type Numbers = Map<String, Value>;

pub struct Report {
    /// Of the benchmark, and of its file.
    name: &'static str,
    rounds: usize,
    size_bytes: u64,
    /// Workload, subject, samples in the order of the rounds.
    samples: BTreeMap<String, Vec<(&'static str, Vec<Sample>)>>,
    /// Of workloads that are not measured by the native disk.
    baselines: BTreeMap<String, &'static str>,
}

const NATIVE: &str = "native";

impl Report {
    pub fn new(name: &'static str, rounds: usize, size_bytes: u64) -> Self {
        Self {
            name,
            rounds,
            size_bytes,
            samples: BTreeMap::new(),
            baselines: BTreeMap::new(),
        }
    }

    /// What the others of this workload are compared with.
    pub fn set_baseline(&mut self, workload: &str, subject: &'static str) {
        self.baselines.insert(workload.to_owned(), subject);
    }

    fn baseline(&self, workload: &str) -> &'static str {
        self.baselines.get(workload).copied().unwrap_or(NATIVE)
    }

    /// The median of a number, if there is one.
    pub fn median_of(&self, workload: &str, subject: &str, key: &str) -> Option<f64> {
        let subjects = self.samples.get(workload)?;
        let (_, samples) = subjects.iter().find(|(name, _)| *name == subject)?;
        medians(samples).get(key)?.as_f64()
    }

    pub fn add(&mut self, workload: &str, subject: &'static str, sample: Sample) {
        let subjects = self.samples.entry(workload.to_owned()).or_default();
        match subjects.iter_mut().find(|(name, _)| *name == subject) {
            Some((_, samples)) => samples.push(sample),
            None => subjects.push((subject, vec![sample])),
        }
    }

    /// Prints medians and, after a slash, their ratio to those of the baseline.
    pub fn print_workload(&self, workload: &str) {
        let Some(subjects) = self.samples.get(workload) else {
            println!("{workload}: skipped, nobody to measure or not root");
            return;
        };
        println!("{workload}");
        let baseline = self.baseline(workload);
        let measure = subjects
            .iter()
            .find(|(name, _)| *name == baseline)
            .map(|(_, samples)| medians(samples));
        for (subject, samples) in subjects {
            let line: Vec<String> = medians(samples)
                .iter()
                .filter_map(|(key, value)| {
                    let value = value.as_f64()?;
                    let ratio = measure
                        .as_ref()
                        .filter(|_| *subject != baseline)
                        .and_then(|measure| ratio(value, measure.get(key)?.as_f64()?))
                        .map_or(String::new(), |ratio| format!(" /{ratio:.2}"));
                    Some(format!("{key} {value:.1}{ratio}"))
                })
                .collect();
            println!("  {subject:<14} {}", line.join("  "));
        }
    }

    /// Writes `bench/NAME.json` into the target directory that this program was built in.
    pub fn write_json(&self) -> anyhow::Result<()> {
        let mut workloads = Map::new();
        for (workload, subjects) in &self.samples {
            let baseline = self.baseline(workload);
            let measure = subjects
                .iter()
                .find(|(name, _)| *name == baseline)
                .map(|(_, samples)| medians(samples));
            let mut entries = Map::new();
            for (subject, samples) in subjects {
                let numbers = medians(samples);
                let ratios: Numbers = measure
                    .iter()
                    .flat_map(|measure| {
                        numbers.iter().filter_map(|(key, value)| {
                            Some((
                                key.clone(),
                                json!(ratio(value.as_f64()?, measure.get(key)?.as_f64()?)?),
                            ))
                        })
                    })
                    .collect();
                entries.insert(
                    (*subject).to_owned(),
                    json!({"median": numbers, format!("to_{baseline}"): ratios, "rounds": samples}),
                );
            }
            workloads.insert(workload.clone(), Value::Object(entries));
        }
        let text = serde_json::to_string_pretty(
            &json!({"rounds": self.rounds, "size_bytes": self.size_bytes, "workloads": workloads}),
        )?;
        let path = target_directory()?.join(format!("bench/{}.json", self.name));
        std::fs::create_dir_all(path.parent().context("the path has a folder")?)?;
        std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
        println!("written: {}", path.display());
        Ok(())
    }
}

fn ratio(value: f64, measure: f64) -> Option<f64> {
    (measure > 0.0).then(|| value / measure)
}

/// The median of every number that the samples have.
fn medians(samples: &[Sample]) -> Numbers {
    let rounds: Vec<Numbers> = samples
        .iter()
        .filter_map(|sample| match serde_json::to_value(sample) {
            Ok(Value::Object(numbers)) => Some(numbers),
            _ => None,
        })
        .collect();
    let keys = rounds
        .first()
        .map(|first| first.keys().cloned().collect::<Vec<_>>())
        .unwrap_or_default();
    keys.into_iter()
        .filter_map(|key| {
            let values = rounds
                .iter()
                .filter_map(|numbers| numbers.get(&key)?.as_f64())
                .collect();
            Some((key, json!(median(values)?)))
        })
        .collect()
}

/// Cargo puts this program into TARGET/release/deps.
pub fn target_directory() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?;
    program
        .ancestors()
        .nth(3)
        .map(PathBuf::from)
        .context("the program is not in a target directory")
}
