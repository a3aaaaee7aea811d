use std::{future::Future, io::Read, time::Instant};

use tempfile::TempDir;

use super::*;

/// A daemon that answers reload with one line and refuses down, and the peers that talk to it.
fn with_daemon(peers: impl FnOnce(PathBuf) + Send + 'static) {
    with_daemon_answering(answer, peers);
}

fn with_daemon_answering(
    answer: impl Fn(Request) -> Response,
    peers: impl FnOnce(PathBuf) + Send + 'static,
) {
    in_runtime(async {
        let directory = TempDir::new().unwrap();
        let mut server = ControlServer::bind(directory.path()).unwrap();
        let run_dir = directory.path().to_owned();
        let mut peers = tokio::task::spawn_blocking(move || peers(run_dir));
        loop {
            tokio::select! {
                Incoming { request, reply } = server.accept() => reply.send(answer(request)).await,
                result = &mut peers => return result.unwrap(),
            }
        }
    });
}

fn in_runtime<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(test)
}

fn answer(request: Request) -> Response {
    match request {
        Request::Reload => Response::Done {
            lines: vec!["nothing changed".to_owned()],
        },
        Request::Down => Response::Refused {
            error: "not now".to_owned(),
        },
        Request::Flushed { ended } => Response::Done {
            lines: vec![ended.to_string()],
        },
    }
}

fn connect(run_dir: &Path) -> BlockingStream {
    BlockingStream::connect(run_dir.join(SOCKET)).unwrap()
}

fn response_to(run_dir: &Path, bytes: &[u8]) -> String {
    let mut stream = connect(run_dir);
    // The daemon may close before all of it is sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut text = String::new();
    // It may also close with bytes unread, which resets the connection after the answer.
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn requests_are_answered_in_the_words_of_the_protocol() {
    with_daemon(|run_dir| {
        assert_eq!(
            response_to(
                &run_dir,
                b"{\"command\":\"reload\"}\n{\"command\":\"down\"}\n"
            ),
            "{\"ok\":true,\"lines\":[\"nothing changed\"]}\n{\"ok\":false,\"error\":\"not now\"}\n"
        );
        let lines = request(&run_dir, Request::Reload)
            .unwrap()
            .into_result()
            .unwrap();
        assert_eq!(lines, ["nothing changed"]);
        let refusal = request(&run_dir, Request::Down)
            .unwrap()
            .into_result()
            .unwrap_err();
        assert_eq!(refusal.to_string(), "not now");
    });
}

#[test]
fn misbehaving_peers_get_an_error_and_do_not_block_the_daemon() {
    with_daemon(|run_dir| {
        let long = vec![b'x'; 200 << 10];
        let garbage: [&[u8]; 6] = [
            b"hello\n",
            b"{\"command\":\"fly\"}\n",
            b"\n",
            b"\xff\xfe\n",
            b"{",
            &long,
        ];
        for bytes in garbage {
            let text = response_to(&run_dir, bytes);
            assert!(text.starts_with("{\"ok\":false,\"error\":"), "{text}");
        }
        // Peers that leave before, during and after a request.
        drop(connect(&run_dir));
        connect(&run_dir).write_all(b"{\"comm").unwrap();
        connect(&run_dir)
            .write_all(b"{\"command\":\"reload\"}\n")
            .unwrap();
        assert!(request(&run_dir, Request::Reload).is_ok());
    });
}

#[test]
fn a_silent_peer_does_not_hold_up_others() {
    with_daemon(|run_dir| {
        let silent: Vec<_> = (0..10).map(|_| connect(&run_dir)).collect();
        let start = Instant::now();
        assert!(request(&run_dir, Request::Reload).is_ok());
        assert!(start.elapsed() < REQUEST_LIMIT / 2);
        drop(silent);
    });
}

#[test]
fn more_peers_than_places_are_closed_and_later_ones_served() {
    with_daemon(|run_dir| {
        let silent: Vec<_> = (0..PEERS_MAX + 5).map(|_| connect(&run_dir)).collect();
        assert_eq!((&silent[PEERS_MAX]).read(&mut [0]).unwrap(), 0);
        drop(silent);
        let start = Instant::now();
        while request(&run_dir, Request::Reload).is_err() {
            assert!(start.elapsed() < REQUEST_LIMIT / 2);
        }
    });
}

#[test]
fn an_answer_is_written_before_the_daemon_ends() {
    let directory = TempDir::new().unwrap();
    let run_dir = directory.path().to_owned();
    let peer = in_runtime(async {
        let mut server = ControlServer::bind(&run_dir).unwrap();
        let run_dir = run_dir.clone();
        let peer = std::thread::spawn(move || request(&run_dir, Request::Down));
        let Incoming { reply, .. } = server.accept().await;
        let lines = vec!["x".repeat(100); 10_000];
        reply.send(Response::Done { lines }).await;
        peer
    });
    assert_eq!(
        peer.join().unwrap().unwrap().into_result().unwrap().len(),
        10_000
    );
    assert!(!run_dir.join(SOCKET).exists());
}

#[test]
fn a_peer_that_takes_no_answer_holds_the_daemon_up_for_a_moment_only() {
    with_daemon_answering(
        |_| Response::Done {
            // More than a socket holds, and no more: the rest of the time is for reading it.
            lines: vec!["x".repeat(100); 10_000],
        },
        |run_dir| {
            let mut stream = connect(&run_dir);
            stream.write_all(b"{\"command\":\"reload\"}\n").unwrap();
            let start = Instant::now();
            let lines = request(&run_dir, Request::Reload)
                .unwrap()
                .into_result()
                .unwrap();
            assert_eq!(lines.len(), 10_000);
            assert!(start.elapsed() < RESPONSE_LIMIT * 2);
        },
    );
}

#[test]
fn a_request_that_the_daemon_drops_is_refused() {
    let directory = TempDir::new().unwrap();
    let run_dir = directory.path().to_owned();
    in_runtime(async {
        let mut server = ControlServer::bind(&run_dir).unwrap();
        let peer = tokio::task::spawn_blocking(move || request(&run_dir, Request::Down));
        drop(server.accept().await);
        let refusal = peer.await.unwrap().unwrap().into_result().unwrap_err();
        assert!(refusal.to_string().contains("stopping"));
    });
}

#[test]
fn without_a_daemon_the_error_says_how_to_start_it() {
    let directory = TempDir::new().unwrap();
    let expected = format!(
        "natbpf is not running (no control socket in {}); start it with natbpf run",
        directory.path().display()
    );
    assert_eq!(
        request(directory.path(), Request::Down)
            .unwrap_err()
            .to_string(),
        expected
    );
    drop(std::os::unix::net::UnixListener::bind(directory.path().join(SOCKET)).unwrap());
    assert!(!is_running(directory.path()));
    assert_eq!(
        request(directory.path(), Request::Down)
            .unwrap_err()
            .to_string(),
        expected
    );
}

#[test]
fn a_stale_socket_is_replaced_by_one_for_the_owner_alone() {
    let directory = TempDir::new().unwrap();
    for name in [SOCKET, NEW_SOCKET] {
        drop(std::os::unix::net::UnixListener::bind(directory.path().join(name)).unwrap());
    }
    in_runtime(async {
        let _server = ControlServer::bind(directory.path()).unwrap();
        assert!(is_running(directory.path()));
        let mode = std::fs::metadata(directory.path().join(SOCKET))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!directory.path().join(NEW_SOCKET).exists());
    });
}
