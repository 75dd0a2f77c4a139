//! The services as a sidecar calls them that repeats a failed call at once, on a clock of the test.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use async_trait::async_trait;
use stillpoint_csi_proto::v1;
use tonic::Request;
use v1::controller_server::Controller as _;
use v1::group_controller_server::GroupController as _;

use super::*;
use crate::controller::paging::{Page, PageRequest};
use crate::controller::placement::Policy;
use crate::controller::volumes::model::Model;
use crate::controller::volumes::{Snapshots, Volumes};
use crate::csi::controller::Controller;
use crate::csi::group::Group;
use crate::csi::ports::Asked;
use crate::domain::listing::SnapshotEntry;
use crate::domain::record::{CutMember, CutRecord};
use crate::domain::{CutHandle, SnapshotId, VolumeId};

const VOLUME: &str = "3f9a0c11d2e4-v00000000000000000000000000000001-00000001";
const OTHER: &str = "3f9a0c11d2e4-v00000000000000000000000000000002-00000001";
const TEN_MINUTES: Duration = Duration::from_mins(10);

/// Nothing can be cut; counts the attempts. Its circumstances are a number.
#[derive(Default)]
struct Hopeless {
    attempts: AtomicUsize,
    fault: Mutex<Option<Fault>>,
    annotation: tokio::sync::watch::Sender<String>,
    looks: AtomicUsize,
}

impl Hopeless {
    fn failing(fault: Fault) -> Arc<Self> {
        Arc::new(Self { fault: Mutex::new(Some(fault)), ..Self::default() })
    }

    fn attempts(&self) -> usize {
        self.attempts.load(Ordering::SeqCst)
    }

    fn now(&self) -> Circumstances {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let annotation = Some(self.annotation.borrow().clone());
        Circumstances { is_wanted: true, annotation, ..Circumstances::default() }
    }
}

#[async_trait]
impl Cutting for Hopeless {
    async fn take(&self, _: CutKind, _: &str, _: Vec<VolumeId>, _: &Asked) -> Result<CutRecord, Fault> {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        Err(self.fault.lock().unwrap().clone().unwrap_or_else(|| Fault::not_found("no volume")))
    }
    async fn find(&self, _: CutKind, _: &str) -> Result<Option<CutRecord>, Fault> {
        Ok(None)
    }
    async fn get(&self, _: &CutHandle) -> Result<Option<CutRecord>, Fault> {
        Ok(None)
    }
    async fn of_snapshot(&self, _: &SnapshotId) -> Result<Option<CutRecord>, Fault> {
        Ok(None)
    }
    async fn snapshots(&self, _: Option<&VolumeId>, _: &PageRequest) -> Result<Page<SnapshotEntry>, Fault> {
        Ok(Page::empty())
    }
    async fn delete(&self, _: &CutHandle) -> Result<(), Fault> {
        Ok(())
    }
    async fn circumstances(&self, _: CutKind, _: &SnapshotObject, _: DependsOn) -> Option<Circumstances> {
        Some(self.now())
    }
    async fn changed(&self, _: CutKind, _: &SnapshotObject, _: DependsOn, seen: &mut Option<Circumstances>) {
        let mut annotation = self.annotation.subscribe();
        let known = seen.get_or_insert_with(|| self.now()).clone();
        while self.now() == known {
            annotation.changed().await.unwrap();
        }
    }
}

#[async_trait]
impl Snapshots for Hopeless {
    async fn member(&self, _: &SnapshotId) -> Result<Option<CutMember>, Fault> {
        Ok(None)
    }
}

fn parameters(more: &[(&str, &str)]) -> HashMap<String, String> {
    let of = |kind: &str| {
        [
            (format!("csi.storage.k8s.io/{kind}/name"), "nightly".to_owned()),
            (format!("csi.storage.k8s.io/{kind}/namespace"), "shop".to_owned()),
        ]
    };
    let more = more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    of("volumesnapshot").into_iter().chain(of("volumegroupsnapshot")).chain(more).collect()
}

fn group(volumes: &[&str], more: &[(&str, &str)]) -> v1::CreateVolumeGroupSnapshotRequest {
    v1::CreateVolumeGroupSnapshotRequest {
        name: "groupsnapshot-1".into(),
        source_volume_ids: volumes.iter().map(|&id| id.into()).collect(),
        parameters: parameters(more),
        ..Default::default()
    }
}

fn single(volume: &str, more: &[(&str, &str)]) -> v1::CreateSnapshotRequest {
    v1::CreateSnapshotRequest {
        name: "snapshot-1".into(),
        source_volume_id: volume.into(),
        parameters: parameters(more),
        ..Default::default()
    }
}

fn services(cuts: &Arc<Hopeless>) -> (Controller, Group) {
    let volumes = Volumes::new(Arc::new(Model::three()), Arc::clone(cuts) as _, Policy::default());
    (Controller::new(Arc::new(volumes), Arc::clone(cuts) as _), Group::new(Arc::clone(cuts) as _))
}

/// How often a caller that repeats at once is answered in ten minutes, and the longest wait for an answer.
async fn answers<F: Future<Output = Result<(), tonic::Status>>>(call: impl Fn() -> F) -> (usize, Duration) {
    let (begin, mut count, mut longest) = (Instant::now(), 0, Duration::ZERO);
    while begin.elapsed() < TEN_MINUTES {
        let asked = Instant::now();
        call().await.unwrap_err();
        longest = longest.max(asked.elapsed());
        count += 1;
        // Without pauses the clock of the test stands still.
        assert!(count < 1000, "nothing slows the caller down");
    }
    (count, longest)
}

#[tokio::test(start_paused = true)]
async fn whatever_makes_a_snapshot_fail_for_good_a_caller_that_repeats_at_once_is_slowed_down() {
    let long = "x".repeat(200);
    let many: Vec<String> = (0..2000).map(|number| format!("3f9a0c11d2e4-v{number:032x}-00000001")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let groups = [
        group(&[VOLUME], &[("unknown", "parameter")]),
        group(&[VOLUME], &[("stillpoint.dev/rule", "no/name")]),
        group(&["garbage"], &[]),
        group(&[VOLUME, VOLUME], &[]),
        group(&[], &[]),
        group(&many, &[]),
        group(&[VOLUME], &[]),
        v1::CreateVolumeGroupSnapshotRequest { name: long.clone(), ..group(&[VOLUME], &[]) },
    ];
    let singles = [
        single(VOLUME, &[("unknown", "parameter")]),
        single("garbage", &[]),
        single("", &[]),
        single(VOLUME, &[]),
        v1::CreateSnapshotRequest { name: long, ..single(VOLUME, &[]) },
    ];
    let codes = [
        Fault::invalid("x"),
        Fault::not_found("x"),
        Fault::already_exists("x"),
        Fault::precondition("x"),
        Fault::internal("x"),
        Fault::unimplemented("x"),
    ];
    for fault in codes {
        let cuts = Hopeless::failing(fault.clone());
        let (controller, service) = services(&cuts);
        for request in &groups {
            let call = || async {
                service.create_volume_group_snapshot(Request::new(request.clone())).await.map(drop)
            };
            let (count, longest) = answers(call).await;
            assert!((20..=26).contains(&count), "{count} answers in ten minutes: {fault} {request:?}");
            assert_eq!(longest, LONGEST_PAUSE);
        }
        for request in &singles {
            let call = || async { controller.create_snapshot(Request::new(request.clone())).await.map(drop) };
            let (count, longest) = answers(call).await;
            assert!((20..=26).contains(&count), "{count} answers in ten minutes: {fault} {request:?}");
            assert_eq!(longest, LONGEST_PAUSE);
        }
    }
}

/// The sidecar has pauses of its own for these, unless the text changes.
#[tokio::test(start_paused = true)]
async fn an_error_that_may_pass_is_tried_again_sooner_and_not_at_once() {
    for fault in [Fault::unavailable("x"), Fault::aborted("x"), Fault::exhausted("x")] {
        let cuts = Hopeless::failing(fault);
        let (_, service) = services(&cuts);
        let call = || async {
            service.create_volume_group_snapshot(Request::new(group(&[VOLUME], &[]))).await.map(drop)
        };
        let (count, longest) = answers(call).await;
        assert!((115..=125).contains(&count), "{count} answers in ten minutes");
        assert_eq!(longest, LONGEST_PASSING);
    }
}

async fn fail(service: &Group, request: &v1::CreateVolumeGroupSnapshotRequest, times: usize) {
    for _ in 0..times {
        service.create_volume_group_snapshot(Request::new(request.clone())).await.unwrap_err();
    }
}

#[tokio::test(start_paused = true)]
async fn other_members_or_parameters_and_a_changed_annotation_are_tried_at_once_and_begin_anew() {
    let cuts = Hopeless::failing(Fault::precondition("x"));
    let (_, service) = services(&cuts);
    let first = group(&[VOLUME], &[]);
    fail(&service, &first, 6).await;
    for changed in [group(&[VOLUME, OTHER], &[]), group(&[VOLUME], &[("stillpoint.dev/rule", "flush")])] {
        let begin = Instant::now();
        fail(&service, &changed, 1).await;
        assert_eq!(begin.elapsed(), Duration::ZERO);
        fail(&service, &changed, 1).await;
        assert_eq!(begin.elapsed(), FIRST_PAUSE, "the pauses begin anew");
    }
    // The order of members and of parameters says nothing.
    fail(&service, &group(&[VOLUME, OTHER], &[]), 6).await;
    let begin = Instant::now();
    fail(&service, &group(&[OTHER, VOLUME], &[]), 1).await;
    assert_eq!(begin.elapsed(), LONGEST_PAUSE);

    let before = cuts.attempts();
    let waiting = async { fail(&service, &group(&[OTHER, VOLUME], &[]), 1).await };
    let annotating = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        cuts.annotation.send_replace("another-rule".into());
    };
    let begin = Instant::now();
    tokio::join!(waiting, annotating);
    assert_eq!((begin.elapsed(), cuts.attempts()), (Duration::from_secs(2), before + 1));
    fail(&service, &group(&[OTHER, VOLUME], &[]), 1).await;
    assert_eq!(begin.elapsed(), Duration::from_secs(2) + FIRST_PAUSE, "the pauses begin anew");
}

#[tokio::test(start_paused = true)]
async fn success_is_not_paced_and_ends_the_pauses() {
    let cuts = Hopeless::failing(Fault::precondition("x"));
    let backoff = Backoff::new(cuts);
    let call = || Call::new(CutKind::Group, "g", 1, &MetadataMap::new());
    for _ in 0..5 {
        backoff.run(call(), async { Err::<(), _>(Fault::precondition("x")) }).await.unwrap_err();
    }
    backoff.run(call(), async { Ok(()) }).await.unwrap();
    let begin = Instant::now();
    for _ in 0..100 {
        backoff.run(call(), async { Ok(()) }).await.unwrap();
    }
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert!(backoff.failures().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_ends_the_wait_and_nothing_is_held_for_it() {
    let cuts = Hopeless::failing(Fault::precondition("x"));
    let backoff = Backoff::new(Arc::clone(&cuts) as _);
    let object = SnapshotObject { namespace: "shop".into(), name: "nightly".into() };
    let call =
        || Call::new(CutKind::Group, "g", 1, &MetadataMap::new()).of(Some(object.clone()), DependsOn::Rules);
    let (sender, receiver) = mpsc::channel::<()>();
    for _ in 0..5 {
        backoff.run(call(), async { Err::<(), _>(Fault::precondition("x")) }).await.unwrap_err();
    }
    let work = async move {
        drop(sender);
        Ok(())
    };
    let left = tokio::time::timeout(Duration::from_secs(2), backoff.run(call(), work)).await;
    assert!(left.is_err(), "it waits");
    assert_eq!(receiver.try_recv(), Err(mpsc::TryRecvError::Disconnected), "the work is gone, not begun");
    assert_eq!(backoff.waiting.available_permits(), WAITING);
}

#[tokio::test(start_paused = true)]
async fn a_client_with_a_short_deadline_gets_the_last_error_again_in_time() {
    let cuts = Hopeless::failing(Fault::precondition("the reason"));
    let (_, service) = services(&cuts);
    let request = || {
        let mut request = Request::new(group(&[VOLUME], &[]));
        request.set_timeout(Duration::from_secs(10));
        request
    };
    let begin = Instant::now();
    let mut longest = Duration::ZERO;
    while begin.elapsed() < TEN_MINUTES {
        let asked = Instant::now();
        let status = service.create_volume_group_snapshot(request()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (tonic::Code::FailedPrecondition, "the reason"));
        assert!(cuts.attempts() < 1000, "nothing slows the caller down");
        longest = longest.max(asked.elapsed());
    }
    assert_eq!(longest, Duration::from_secs(5));
    assert!((20..=30).contains(&cuts.attempts()), "{} attempts", cuts.attempts());
}

#[test]
fn timeouts_are_read_as_grpc_writes_them() {
    let read =
        ["5S", "100m", "2M", "1H", "7u", "9n", "", "S", "5", "-5S", "5s", "99999999S", "5é"].map(timeout);
    let seconds = Duration::from_secs;
    let expected = [
        Some(seconds(5)),
        Some(Duration::from_millis(100)),
        Some(seconds(120)),
        Some(seconds(3600)),
        Some(Duration::from_micros(7)),
        Some(Duration::from_nanos(9)),
        None,
        None,
        None,
        None,
        None,
        Some(seconds(99_999_999)),
        None,
    ];
    assert_eq!(read, expected);
}

/// More hopeless groups than the sidecar has workers: those beyond the bound do not wait, and go on when they change.
#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_and_the_rest_is_answered_with_a_code_that_the_sidecar_paces_itself() {
    let cuts = Hopeless::failing(Fault::precondition("x"));
    let backoff = Arc::new(Backoff::new(Arc::clone(&cuts) as _));
    let object = SnapshotObject { namespace: "shop".into(), name: "nightly".into() };
    let call = |number: usize| {
        Call::new(CutKind::Group, &number.to_string(), 1, &MetadataMap::new())
            .of(Some(object.clone()), DependsOn::Rules)
    };
    let fails = || async { Err::<(), _>(Fault::precondition("x")) };
    for number in 0..=WAITING {
        backoff.run(call(number), fails()).await.unwrap_err();
    }
    // One look is enough for the last one to know what it depends on.
    backoff.learn(&call(WAITING), Some(cuts.now()));
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..WAITING {
        let (backoff, call) = (Arc::clone(&backoff), call(number));
        waiting.spawn(async move { backoff.run(call, async { Ok(()) }).await });
    }
    while backoff.waiting.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let begin = Instant::now();
    let texts: Vec<Fault> = [
        backoff.run(call(WAITING), fails()).await.unwrap_err(),
        backoff.run(call(WAITING), fails()).await.unwrap_err(),
    ]
    .into();
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert!(!texts[0].code.is_final() && texts[0] == texts[1], "{texts:?}");
    cuts.annotation.send_replace("another-rule".into());
    assert_eq!(backoff.run(call(WAITING), fails()).await, Err(Fault::precondition("x")));
    while let Some(done) = waiting.join_next().await {
        done.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn only_so_many_failures_are_remembered_and_none_without_a_name() {
    let backoff = Backoff::new(Hopeless::failing(Fault::precondition("x")));
    for number in 0..=REMEMBERED {
        let call = Call::new(CutKind::Group, &number.to_string(), 1, &MetadataMap::new());
        backoff.run(call, async { Err::<(), _>(Fault::precondition("x")) }).await.unwrap_err();
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(backoff.failures().len(), REMEMBERED);
    assert!(!backoff.failures().contains_key(&(CutKind::Group, "0".into())), "the oldest is forgotten");
    let nameless = Call::new(CutKind::Single, "", 1, &MetadataMap::new());
    backoff.run(nameless, async { Err::<(), _>(Fault::invalid("x")) }).await.unwrap_err();
    assert!(!backoff.failures().contains_key(&(CutKind::Single, String::new())));
}

#[test]
fn pauses_grow_to_a_limit() {
    let seconds: Vec<u64> = [1, 2, 3, 4, 5, 6, 33, u32::MAX].map(|count| pause(count).as_secs()).to_vec();
    assert_eq!(seconds, [3, 9, 27, 30, 30, 30, 30, 30]);
}
