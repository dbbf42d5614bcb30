//! When files go to make room, as the operator said it, with what follows for what was left out.

use super::error::ConfigError;

/// In per cent; `None` where nothing was said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watermarks {
    pub high_percent: Option<u8>,
    pub low_percent: Option<u8>,
    pub run_percent: Option<u8>,
    pub cull_percent: Option<u8>,
    pub stop_percent: Option<u8>,
    pub run_inodes_percent: Option<u8>,
    pub cull_inodes_percent: Option<u8>,
    pub stop_inodes_percent: Option<u8>,
}

/// What is to be free of a disk, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreePercent {
    pub run: u8,
    pub cull: u8,
    pub stop: u8,
}

/// cachefilesd.conf(5).
const USUAL: FreePercent = FreePercent {
    run: 10,
    cull: 7,
    stop: 3,
};
const HIGH_USUAL: u8 = 95;
const LOW_BELOW_HIGH: u8 = 5;

impl Watermarks {
    /// High and low, of the cache's limit.
    pub fn held(&self) -> Option<(u8, u8)> {
        if self.high_percent.is_none() && self.low_percent.is_none() {
            return None;
        }
        let high = self.high_percent.unwrap_or(HIGH_USUAL);
        let low = self.low_percent;
        Some((high, low.unwrap_or(high.saturating_sub(LOW_BELOW_HIGH))))
    }

    pub fn free_bytes(&self) -> Option<FreePercent> {
        free(self.run_percent, self.cull_percent, self.stop_percent)
    }

    pub fn free_inodes(&self) -> Option<FreePercent> {
        free(
            self.run_inodes_percent,
            self.cull_inodes_percent,
            self.stop_inodes_percent,
        )
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some((high, low)) = self.held()
            && low >= high
        {
            return Err(ConfigError::Contradiction(format!(
                "low_watermark={low}% is not below high_watermark={high}%; lower the first or raise the second"
            )));
        }
        for (letter, marks) in [('b', self.free_bytes()), ('f', self.free_inodes())] {
            if let Some(FreePercent { run, cull, stop }) = marks
                && !(stop < cull && cull < run)
            {
                return Err(ConfigError::Contradiction(format!(
                    "{letter}stop={stop}% has to be below {letter}cull={cull}%, and that below {letter}run={run}%; \
                     what is not given is 3%, 7% and 10%"
                )));
            }
        }
        Ok(())
    }
}

fn free(run: Option<u8>, cull: Option<u8>, stop: Option<u8>) -> Option<FreePercent> {
    run.or(cull).or(stop)?;
    Some(FreePercent {
        run: run.unwrap_or(USUAL.run),
        cull: cull.unwrap_or(USUAL.cull),
        stop: stop.unwrap_or(USUAL.stop),
    })
}
