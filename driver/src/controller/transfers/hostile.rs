//! A source that lies: it has the right certificate and a ticket, and sends whatever it likes.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_stream::{Stream, StreamExt, iter};
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::world::{SIZE, World, files};
use crate::domain::transfer::{CHUNK, Chain, hash};
use crate::domain::{Code, Fault, Incarnation, NewVolume, VolumeId};
use crate::identity::acceptor;
use crate::identity::tls::{Callers, Credentials};
use crate::proto::agent::peer_server::{Peer, PeerServer};
use crate::proto::agent::{BlockRange, ExportChunk, ExportRequest, GrantResponse, ReceiveRequest};
use crate::wire::{convert, fault_of};

type Messages = Pin<Box<dyn Stream<Item = Result<ExportChunk, Status>> + Send>>;
/// What is sent at the how manieth call to a target that has everything up to an offset.
type Script = fn(usize, u64) -> Messages;

struct Hostile {
    script: Script,
    calls: Arc<AtomicUsize>,
}

#[async_trait::async_trait]
impl Peer for Hostile {
    type ExportStream = Messages;

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Messages>, Status> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new((self.script)(call, request.get_ref().have_until)))
    }
}

fn chunk(pieces: &[(u64, u64)], data: Vec<u8>) -> ExportChunk {
    let piece = |(offset, length): &(u64, u64)| BlockRange { offset: *offset, length: *length };
    ExportChunk {
        pieces: pieces.iter().map(piece).collect(),
        hash: hash(&data).to_vec(),
        data: data.into(),
        ..ExportChunk::default()
    }
}

fn once(message: ExportChunk) -> Messages {
    Box::pin(iter([Ok(message)]))
}

/// A good chunk, and then for ever what the target has already.
fn repeats_for_ever(call: usize, _: u64) -> Messages {
    let good = chunk(&[(0, CHUNK)], vec![7; usize::try_from(CHUNK).unwrap()]);
    if call == 0 {
        return Box::pin(iter([Ok(good), Err(Status::unavailable("the cable was pulled"))]));
    }
    let known = ExportChunk { data: vec![].into(), ..good };
    Box::pin(iter(std::iter::repeat_with(move || Ok(known.clone()))))
}

/// The same chunk with its data for ever.
fn sends_for_ever(_: usize, _: u64) -> Messages {
    let good = chunk(&[(0, 4096)], vec![7; 4096]);
    Box::pin(iter(std::iter::repeat_with(move || Ok(good.clone()))))
}

/// What one lie comes to: the fault, and how often the source was asked.
async fn receive(world: &World, script: Script) -> (Fault, usize) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let credentials =
        Credentials::of_agent(&files(world.dir.path(), "agents/a"), &"a".parse().unwrap()).unwrap();
    let incoming = acceptor::incoming(listener, acceptor::fixed(credentials), Callers::WithCertificate);
    let calls = Arc::new(AtomicUsize::new(0));
    let service = PeerServer::new(Hostile { script, calls: Arc::clone(&calls) });
    let serving = tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));

    let target = world.fleet.agent(&"b".parse().unwrap()).unwrap();
    let pool = target.describe().await.unwrap().pools[0].id.clone();
    let id = VolumeId::new(pool, "stolen", Incarnation(1));
    let volume =
        NewVolume { id: id.clone(), name: "stolen".into(), capacity: SIZE, filesystem: None, source: None };
    let granted = GrantResponse { content: "c".into(), size_bytes: SIZE.0, allocated_bytes: CHUNK };
    let request = ReceiveRequest {
        volume: Some(convert::new_volume_to_proto(&volume)),
        ticket: "0".repeat(32),
        from_host: "a".into(),
        from_address: address,
        granted: Some(granted),
        moved: None,
    };
    let ending = async {
        let mut progress = target.receive(request).await?;
        loop {
            match progress.message().await.map_err(fault_of)? {
                Some(message) => assert!(message.made.is_none(), "a volume was made of lies"),
                None => return Err(Fault::aborted("the answer broke off")),
            }
        }
    };
    let outcome: Result<(), Fault> = tokio::time::timeout(Duration::from_mins(2), ending).await.unwrap();
    serving.abort();
    assert_eq!(target.find_volume(&id.hash).await.unwrap(), None);
    target.abandon(&id.pool, &id.hash, None).await.unwrap();
    (outcome.unwrap_err(), calls.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_lying_source_sends_hangs_breaks_or_becomes_a_volume() {
    let world = World::new().await;
    let lies: &[(&str, Script, Code)] = &[
        ("nothing", |_, _| Box::pin(iter(Vec::<Result<ExportChunk, Status>>::new())), Code::Unavailable),
        ("a chunk without pieces", |_, _| once(chunk(&[], vec![1; 4096])), Code::Internal),
        ("a chunk without data", |_, _| once(chunk(&[(0, 4096)], vec![])), Code::Internal),
        ("data that is too short", |_, _| once(chunk(&[(0, 8192)], vec![1; 4096])), Code::Internal),
        ("half a block", |_, _| once(chunk(&[(0, 100)], vec![1; 100])), Code::Internal),
        ("a place beyond the end", |_, _| once(chunk(&[(SIZE.0, 4096)], vec![1; 4096])), Code::Internal),
        (
            "a place that overflows",
            |_, _| once(chunk(&[(u64::MAX - 1, 4096)], vec![1; 4096])),
            Code::Internal,
        ),
        (
            "lengths that overflow",
            |_, _| once(chunk(&[(0, u64::MAX), (0, u64::MAX)], vec![])),
            Code::Internal,
        ),
        (
            "pieces that overlap",
            |_, _| once(chunk(&[(0, 8192), (4096, 8192)], vec![1; 16384])),
            Code::Internal,
        ),
        ("a chunk over two boundaries", |_, _| once(chunk(&[(0, 2 * CHUNK)], vec![1; 4096])), Code::Internal),
        (
            "an end that proves nothing",
            |_, _| once(ExportChunk { last: true, ..ExportChunk::default() }),
            Code::Internal,
        ),
        (
            "a hash of something else",
            |_, _| {
                let mut message = chunk(&[(0, 4096)], vec![1; 4096]);
                message.hash = hash(b"other").to_vec();
                once(message)
            },
            Code::Unavailable,
        ),
        (
            "the proof of other content",
            |_, _| {
                let whole = Chain::default().whole(crate::domain::Bytes(1)).to_vec();
                once(ExportChunk { last: true, whole, ..ExportChunk::default() })
            },
            Code::Internal,
        ),
        ("what is there already, for ever", repeats_for_ever, Code::Internal),
        ("the same for ever", sends_for_ever, Code::Internal),
    ];
    for (lie, script, code) in lies {
        let (fault, calls) = receive(&world, *script).await;
        assert_eq!(fault.code, *code, "{lie}: {fault}");
        assert!(calls <= 8, "{lie}: the source was asked {calls} times");
    }
    assert_eq!(world.b.parts(), 0);
    // The agent is as well as before.
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    let source = Some(crate::domain::record::Source::Snapshot(snapshot));
    let made = world.volumes.create(&super::world::order("restored", source, "b")).await.unwrap();
    assert_eq!(world.b.read(made.id()), world.a.read(&volume));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_good_for_two_streams_at_once() {
    use crate::controller::fleet::agent::Granting;
    use crate::proto::agent::peer_client::PeerClient;
    let world = World::new().await;
    let volume = world.volume().await;
    let snapshot = world.snapshot(&volume).await;
    let source = world.fleet.agent(&"a".parse().unwrap()).unwrap();
    let ticket = super::ticket().unwrap();
    source.grant(&ticket, &"b".parse().unwrap(), &Granting::Snapshot(snapshot), &volume).await.unwrap();
    let credentials =
        Credentials::of_agent(&files(world.dir.path(), "agents/b"), &"b".parse().unwrap()).unwrap();
    let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{}", world.a.address)).unwrap();
    // So small a window that a stream that nobody reads stays where it is.
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    let endpoint = endpoint.tls_config(credentials.client(&"a".parse().unwrap())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let export = || {
        let (mut client, ticket) = (PeerClient::new(channel.clone()), ticket.clone());
        async move { client.export(ExportRequest { ticket, have_until: 0 }).await }
    };
    let (first, second) = (export().await.unwrap(), export().await.unwrap());
    assert_eq!(export().await.unwrap_err().code(), tonic::Code::Unavailable);
    drop((first, second));
    // Both have ended as soon as the source has noticed.
    let deadline = tokio::time::Instant::now() + Duration::from_mins(1);
    loop {
        match export().await {
            Ok(mut answer) => {
                assert!(answer.get_mut().next().await.is_some());
                return;
            }
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable),
        }
        assert!(tokio::time::Instant::now() < deadline, "streams that nobody reads never end");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
