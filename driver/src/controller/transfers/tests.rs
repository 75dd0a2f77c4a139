//! Copies between two whole agents.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::world::{Host, WRITTEN, World, files, order};
use super::*;
use crate::controller::fleet::AgentAddress;
use crate::controller::orders::VolumeOrder;
use crate::controller::placement::Policy;
use crate::controller::volumes::Volumes;
use crate::domain::record::Source;
use crate::domain::{CutHandle, CutId, Incarnation};
use crate::host::fake::When;
use crate::identity::tls::Credentials;
use crate::proto::agent::ExportRequest;
use crate::proto::agent::peer_client::PeerClient;

const BLOCK: u64 = world::BLOCK;

/// The cut of a snapshot that was taken alone.
fn handle_of(snapshot: &SnapshotId) -> CutHandle {
    let cut = CutId { home: snapshot.volume.pool.clone(), kind: snapshot.kind, hash: snapshot.hash.clone() };
    CutHandle { cut, attempt: snapshot.attempt }
}

fn restored(from: &SnapshotId) -> VolumeOrder {
    order("restored", Some(Source::Snapshot(from.clone())), "b")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_restored_on_another_host_with_all_of_its_data() {
    let world = World::new().await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    let made = world.volumes.create(&restored(&snapshot)).await.unwrap();
    assert_eq!(made.host.as_str(), "b");
    assert_eq!(made.info.record.source, Some(Source::Snapshot(snapshot.clone())));
    assert_eq!(world.b.read(made.id()), world.a.read(&volume));
    assert_eq!(
        made.info.allocated.0,
        WRITTEN.filter(|block| block % 7 != 0).count() as u64 * BLOCK,
        "holes stay"
    );
    assert_eq!(world.volumes.create(&restored(&snapshot)).await.unwrap(), made, "a retry finds it");
    let figures = world.fleet.transfers().figures();
    assert_eq!((figures.running, figures.arrived, figures.failures()), (0, 1, 0));
    world.cuts.delete(&handle_of(&snapshot)).await.unwrap();
    assert_eq!(world.b.parts(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_volume_is_cloned_onto_another_host_and_its_temporary_snapshot_is_gone() {
    let world = World::new().await;
    let volume = world.volume().await;
    let clone = order("clone", Some(Source::Volume(volume.clone())), "b");
    let made = world.volumes.create(&clone).await.unwrap();
    assert_eq!(world.b.read(made.id()), world.a.read(&volume));
    assert_eq!(made.info.record.source, Some(Source::Volume(volume)));
    assert!(world.cuts.list().await.unwrap().is_empty());
}

/// Passes bytes on, and breaks the first connections after so many bytes from the server.
async fn breaking_proxy(to: SocketAddr, breaks: u64, after: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let breaks = Arc::new(AtomicU64::new(breaks));
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let server = TcpStream::connect(to).await.unwrap();
            tokio::spawn(pass_on(caller, server, Arc::clone(&breaks), after));
        }
    });
    address
}

async fn pass_on(caller: TcpStream, server: TcpStream, breaks: Arc<AtomicU64>, after: usize) {
    let ((mut from_caller, mut to_caller), (mut from_server, mut to_server)) =
        (caller.into_split(), server.into_split());
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_caller, &mut to_server).await });
    let (mut passed, mut buffer) = (0, vec![0; 16 << 10]);
    while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
        passed += read;
        let breaks_now = passed > after
            && breaks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if breaks_now || to_caller.write_all(&buffer[..read]).await.is_err() {
            break;
        }
    }
    up.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_connection_is_made_anew_and_what_has_arrived_is_not_sent_again() {
    let (told, address) = oneshot::channel();
    let world = World::through(|a| {
        let runtime = tokio::runtime::Handle::current();
        let proxy = std::thread::spawn(move || runtime.block_on(breaking_proxy(a, 2, 4 << 20)));
        let proxy = proxy.join().unwrap();
        told.send(proxy).unwrap();
        proxy
    })
    .await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    let made = world.volumes.create(&restored(&snapshot)).await.unwrap();
    assert_eq!(world.b.read(made.id()), world.a.read(&volume));
    assert!(address.await.is_ok());
    // One call for each piece between two holes: nothing was written twice but what was on its way when it broke.
    let pieces = WRITTEN
        .filter(|block| block % 7 != 0 && (block - 1) % 7 == 0 || *block == WRITTEN.start)
        .count() as u64;
    let (written, again) = (world.b.kernel.calls_of("pwrite"), 2 * 8 * 256 / 7);
    assert!((pieces..pieces + again).contains(&written), "{written} writes for {pieces} pieces");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_cannot_be_deleted_while_it_is_copied_and_a_cancelled_copy_goes_on_later() {
    let mut world = World::new().await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    let hang = world.b.kernel.hang(When::NthOf("pwrite", 200));
    let creating = {
        let (fleet, cuts, order) = (world.fleet.clone(), world.cuts.clone(), restored(&snapshot));
        tokio::spawn(async move {
            Volumes::new(Arc::new(fleet), Arc::new(cuts), Policy::default()).create(&order).await
        })
    };
    tokio::task::spawn_blocking(move || {
        hang.wait_until_reached();
        hang
    })
    .await
    .map(drop)
    .unwrap();
    let running = world.fleet.transfers().running();
    let cut = handle_of(&snapshot);
    if !running.is_empty() {
        // It may have come to its end since the call was let go.
        assert_eq!((running[0].from.as_str(), running[0].to.as_str()), ("a", "b"));
    }
    creating.abort();
    let _ = creating.await;
    // The target stops when nobody listens, and the agent is even started anew: the part is still there.
    world.b.end().await;
    world.b = Host::start(world.dir.path(), "b", world.b.kernel.clone()).await;
    let agents = [("a", world.a.address), ("b", world.b.address)]
        .map(|(host, address)| AgentAddress { host: host.parse().unwrap(), address: address.to_string() });
    let credentials = Credentials::of_controller(&files(world.dir.path(), "controller")).unwrap();
    let fleet = Fleet::new(agents, &credentials).unwrap();
    let volumes = Volumes::new(Arc::new(fleet.clone()), Arc::new(world.cuts.clone()), Policy::default());
    let mut made = volumes.create(&restored(&snapshot)).await;
    while made.as_ref().is_err_and(|fault| fault.code == Code::Aborted || fault.code == Code::Unavailable) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        made = volumes.create(&restored(&snapshot)).await;
    }
    assert_eq!(world.b.read(made.unwrap().id()), world.a.read(&volume));
    world.cuts.delete(&cut).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_granted_stays_until_the_grant_is_taken_back() {
    let world = World::new().await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    let source = world.fleet.agent(&"a".parse().unwrap()).unwrap();
    let ticket = ticket().unwrap();
    source
        .grant(&ticket, &"b".parse().unwrap(), &Granting::Snapshot(snapshot.clone()), &volume)
        .await
        .unwrap();
    let cut = handle_of(&snapshot);
    assert_eq!(world.cuts.delete(&cut).await.unwrap_err().code, Code::Aborted);
    // What is sealed may be sealed again while it is read: the next controller does so before it grants.
    let sealed = world.cuts.get(&cut).await.unwrap().unwrap();
    source.seal(&sealed).await.unwrap();
    // The next controller's takes the place of one that a dead controller has left, and not of another volume's.
    let (peer, granting) = ("b".parse().unwrap(), Granting::Snapshot(snapshot.clone()));
    let (again, other) = (super::ticket().unwrap(), super::ticket().unwrap());
    source.grant(&again, &peer, &granting, &volume).await.unwrap();
    source.withdraw(&again).await.unwrap();
    source.grant(&ticket, &peer, &granting, &volume).await.unwrap();
    let elsewhere = VolumeId::new(volume.pool.clone(), "other", Incarnation(1));
    source.grant(&other, &peer, &granting, &elsewhere).await.unwrap();
    source.withdraw(&other).await.unwrap();
    assert_eq!(world.cuts.delete(&cut).await.unwrap_err().code, Code::Aborted);
    source.withdraw(&ticket).await.unwrap();
    source.withdraw(&ticket).await.unwrap();
    world.cuts.delete(&cut).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_agent_that_was_granted_a_snapshot_may_fetch_it_and_nothing_else() {
    let world = World::new().await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    let source = world.fleet.agent(&"a".parse().unwrap()).unwrap();
    let ticket = ticket().unwrap();
    // Granted to b; a itself (another agent's certificate) and the controller come with the right ticket.
    source
        .grant(&ticket, &"b".parse().unwrap(), &Granting::Snapshot(snapshot.clone()), &volume)
        .await
        .unwrap();
    let export = |name: &'static str| {
        let (dir, ticket, address) = (world.dir.path().to_owned(), ticket.clone(), world.a.address);
        async move {
            let host = name.strip_prefix("agents/").map(|host| host.parse().unwrap());
            let credentials = match host {
                Some(host) => Credentials::of_agent(&files(&dir, name), &host).unwrap(),
                None => Credentials::of_controller(&files(&dir, name)).unwrap(),
            };
            let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{address}")).unwrap();
            let endpoint = endpoint.tls_config(credentials.client(&"a".parse().unwrap())).unwrap();
            let channel = endpoint.connect().await.unwrap();
            let exported =
                PeerClient::new(channel.clone()).export(ExportRequest { ticket, have_until: 0 }).await;
            let described = crate::proto::agent::agent_client::AgentClient::new(channel)
                .describe(crate::proto::agent::DescribeRequest {})
                .await;
            (
                exported.map(drop).map_err(|status| status.code()),
                described.map(drop).map_err(|status| status.code()),
            )
        }
    };
    let denied = Err(tonic::Code::PermissionDenied);
    assert_eq!(
        export("agents/b").await,
        (Ok(()), denied),
        "an agent may fetch what it was granted and no more"
    );
    assert_eq!(export("agents/a").await, (denied, denied), "another agent's certificate");
    assert_eq!(export("controller").await, (denied, Ok(())), "the controller is no agent");
    source.withdraw(&ticket).await.unwrap();
    assert_eq!(export("agents/b").await.0, denied, "the grant is over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_gets_full_keeps_nothing_and_says_so() {
    let world = World::new().await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    // Room enough to begin, then the disk is full.
    world.b.kernel.fail(When::NthOf("pwrite", 50), libc::ENOSPC);
    let fault = world.volumes.create(&restored(&snapshot)).await.unwrap_err();
    assert_eq!(fault.code, Code::Exhausted, "{fault}");
    assert_eq!(world.b.parts(), 0);
    let made = world.volumes.create(&restored(&snapshot)).await.unwrap();
    assert_eq!(world.b.read(made.id()), world.a.read(&volume));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_snapshot_of_the_same_name_is_not_mixed_with_what_arrived_of_the_first() {
    let world = World::new().await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    world.b.kernel.fail(When::NthOf("pwrite", 300), libc::EIO);
    assert!(world.volumes.create(&restored(&snapshot)).await.is_err());
    assert_eq!(world.b.parts(), 1, "to be gone on with");
    let cut = handle_of(&snapshot);
    let mut deleted = world.cuts.delete(&cut).await;
    while deleted.as_ref().is_err_and(|fault| fault.code == Code::Aborted) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        deleted = world.cuts.delete(&cut).await;
    }
    deleted.unwrap();
    for block in WRITTEN {
        world.a.kernel.write_block(&world.a.image(&volume), block, 77).unwrap();
    }
    let again = world.snapshot(&volume).await;
    assert_ne!(again, snapshot, "of the same name, and another one");
    let made = world.volumes.create(&restored(&again)).await.unwrap();
    assert_eq!(world.b.read(made.id()), world.a.read(&volume));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_goes_on_with_the_volume_that_has_arrived_in_part_and_keeps_its_id() {
    let world = World::new().await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    world.b.kernel.fail(When::NthOf("pwrite", 300), libc::EIO);
    assert!(world.volumes.create(&restored(&snapshot)).await.is_err());
    let parts = world.b.part_ids();
    let made = world.volumes.create(&restored(&snapshot)).await.unwrap();
    assert_eq!(parts, [made.id().to_string()]);
    assert_eq!(world.b.read(made.id()), world.a.read(&volume));
    assert_eq!(world.b.parts(), 0);
}
