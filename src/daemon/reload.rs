//! Settings that change while the mount serves: the settings file is read again, and what can change does.

use super::log;
use crate::config::{Changes, Given, Origin, Resolved, Settings};
use anyhow::Context;
use parking_lot::Mutex;
use std::sync::Arc;

/// Gives the components new limits. Waits for the local disks.
pub type Apply = Box<dyn Fn(&Settings) -> anyhow::Result<()> + Send + Sync>;

/// What holds now, and what was given when it was mounted.
pub struct Configuration {
    given: Given,
    resolved: Mutex<Resolved>,
    /// Held while new settings are taken over: one at a time.
    reloading: Mutex<()>,
    apply: Apply,
}

impl Configuration {
    pub fn new(given: Given, resolved: Resolved, apply: Apply) -> Arc<Self> {
        Arc::new(Self {
            given,
            resolved: Mutex::new(resolved),
            reloading: Mutex::new(()),
            apply,
        })
    }

    pub fn name(&self) -> Option<String> {
        self.resolved.lock().settings.name.clone()
    }

    pub fn in_effect(&self) -> Vec<(&'static str, String, Origin)> {
        self.resolved.lock().in_effect()
    }

    /// Nothing changes where the file has an error. Waits for the local disks.
    pub fn reload(&self) -> anyhow::Result<Changes> {
        let _one = self.reloading.lock();
        let is_root = nix::unistd::geteuid().is_root();
        let wanted = self.given.resolve(is_root)?;
        let present = self.resolved.lock().clone();
        let (next, changes) = present.take_over(&wanted);
        (self.apply)(&next.settings).context("setting new limits")?;
        log::set_level(next.settings.log);
        *self.resolved.lock() = next;
        for change in &changes.made {
            tracing::info!("settings read again: {change}");
        }
        for change in &changes.refused {
            tracing::warn!("settings read again: {change} holds from the next mount on");
        }
        Ok(changes)
    }

    /// The same on a thread of its own, for a signal: how it went is in the log.
    pub fn reload_apart(self: &Arc<Self>) {
        let this = self.clone();
        let started =
            std::thread::Builder::new()
                .name("reload".to_owned())
                .spawn(move || match this.reload() {
                    Ok(changes) if changes == Changes::default() => {
                        tracing::info!("settings read again: nothing has changed");
                    }
                    Ok(_) => {}
                    Err(error) => tracing::error!("settings stay as they are: {error:#}"),
                });
        if let Err(error) = started {
            tracing::error!("reading the settings again: {error}");
        }
    }
}
