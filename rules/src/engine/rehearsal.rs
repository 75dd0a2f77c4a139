//! A cutter that cuts nothing: rules are tried with it.

use async_trait::async_trait;

use crate::ports::{CutError, CutReport, CutRequest, Cutter, OpenCut, SealRequest, StorageLevel};

/// Says that it cut, at once.
#[derive(Debug, Clone, Copy)]
pub struct NothingCut;

#[async_trait]
impl Cutter for NothingCut {
    async fn open(&self, _: CutRequest) -> Result<Box<dyn OpenCut>, CutError> {
        Ok(Box::new(Self))
    }
}

#[async_trait]
impl OpenCut for NothingCut {
    async fn cut(&mut self) -> Result<CutReport, CutError> {
        Ok(CutReport {
            cut_id: String::new(),
            level: StorageLevel::Crash,
            reasons: vec!["nothing was cut".to_owned()],
            hold_requested_at: jiff::Timestamp::now(),
            window_us: 0,
            skew_us: 0,
        })
    }

    async fn seal(self: Box<Self>, _: SealRequest) -> Result<(), CutError> {
        Ok(())
    }
}
