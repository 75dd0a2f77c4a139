//! Calls that this process answered.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use super::{Shared, short_times};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: String,
}

struct Rpcs {
    answered: Family<Answered, Counter>,
    took: Family<Method, Histogram>,
}

static RPCS: Shared<Rpcs> = Shared::new(|| Rpcs {
    answered: Family::default(),
    took: Family::<Method, Histogram>::new_with_constructor(short_times),
});

pub(super) fn register(registry: &mut Registry) {
    registry.register(
        "rpcs",
        "Calls that were answered, by method (service/name) and gRPC code",
        RPCS.answered.clone(),
    );
    registry.register_with_unit(
        "rpc_duration",
        "From the arrival of a call to the end of its answer, by method",
        Unit::Seconds,
        RPCS.took.clone(),
    );
}

/// A call of a method that exists has ended.
pub fn answered(method: &str, code: &'static str, took: Duration) {
    let method = method.to_owned();
    RPCS.answered.get_or_create(&Answered { method: method.clone(), code }).inc();
    RPCS.took.get_or_create(&Method { method }).observe(took.as_secs_f64());
}
