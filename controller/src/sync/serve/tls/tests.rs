//! Real handshakes, with and without a certificate.

use bodhi_net::identity::{Client, Credentials, Expected, Role};
use tokio::io::AsyncReadExt as _;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::authority::testing::{self, authority, now};
use crate::authority::{Authority, ServerNames, Subject};

fn credentials(authority: &Authority, subject: &Subject) -> Credentials {
    let bundle = authority.issue(subject, now()).unwrap();
    Credentials::memory(watch::channel(Some(Arc::new(bundle))).1)
}

#[tokio::test(start_paused = true)]
async fn visits_are_few_and_short_and_those_who_belong_here_stay() {
    let (_keep, authority) = authority(&[now()]);
    let own = ServerNames::parse(["127.0.0.1"]).unwrap();
    let own = credentials(&authority, &Subject::Controller(own));
    let server = Server::new(own, &[Role::DataPlane, Role::Controller]).with_strangers();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let places = Arc::new(Semaphore::new(1));
    let mut incoming = Box::pin(admitted(listener, server, Arc::clone(&places)));

    let stranger = || testing::stranger(&authority, address);
    let (first, served) = tokio::join!(stranger(), incoming.next());
    let mut served = served.unwrap().unwrap();
    // The second one is turned away, the data plane after it is not.
    let second = stranger().await;
    let plane = Client::new(credentials(&authority, &Subject::DataPlane));
    let expected = Expected::host("127.0.0.1").unwrap();
    let calling = tokio::spawn(async move { plane.connect(address, &expected).await.map(drop) });
    let mut at_home = incoming.next().await.unwrap().unwrap();
    assert!(at_home.peer.is_one_of(&[Role::DataPlane]));
    assert_eq!(second.unwrap().read(&mut [0]).await.unwrap_or(0), 0);

    assert!(
        timeout(VISIT / 2, served.read_u8()).await.is_err(),
        "still there"
    );
    let ended = served.read_u8().await.unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    assert_eq!(places.available_permits(), 0);
    drop(served);
    assert_eq!(places.available_permits(), 1);
    drop(first);
    calling.abort();
    let left = timeout(3 * VISIT, at_home.read_u8()).await;
    assert!(!matches!(left, Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut));
}
