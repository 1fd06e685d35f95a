//! The service answers over loopback, and counts every order once, also if it is killed meanwhile.

mod common;

use common::{Running, until};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

/// Starts the service; its address.
fn start(dir: &Path) -> (Running, String) {
    let arguments = [dir, Path::new("127.0.0.1:0")];
    let mut service = Running::start(env!("CARGO_BIN_EXE_service"), &arguments);
    let line = service.line();
    let address = line.strip_prefix("listening on ").expect("an address");
    let address = format!("http://{address}");
    (service, address)
}

/// Places an order of one; whether it was acknowledged.
fn order(address: &str, item: &str) -> bool {
    let order = format!(r#"{{"item":"{item}","count":1}}"#);
    let request = ureq::post(format!("{address}/orders")).content_type("application/json");
    request.send(&order).is_ok_and(|response| response.status() == 201)
}

fn total(address: &str, item: &str) -> u64 {
    let answer = ureq::get(format!("{address}/totals/{item}")).call().expect("an answer");
    answer.into_body().read_to_string().expect("text").parse().expect("a number")
}

#[test]
fn orders_count_once_although_the_service_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut sent) = (0, 0);
    for round in 0..3 {
        let (service, address) = start(dir.path());
        let (done, tried) = (AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        tried.fetch_add(1, SeqCst);
                        if !order(&address, "tea") {
                            return;
                        }
                        done.fetch_add(1, SeqCst);
                    }
                });
            }
            until(true, || done.load(SeqCst) >= 20 * (round + 1));
            service.kill();
        });
        acknowledged += done.into_inner();
        sent += tried.into_inner();
    }
    let (service, address) = start(dir.path());
    assert_eq!(total(&address, "coffee"), 0);
    // What was acknowledged is there; of what was not, some may be. When the worker has come so far
    // that a new order is counted, it has counted all before.
    assert!(order(&address, "coffee"));
    until(1, || total(&address, "coffee"));
    let counted = total(&address, "tea");
    assert!((acknowledged..=sent).contains(&counted), "{acknowledged} <= {counted} <= {sent}");
    // An orderly end and another start change nothing: nothing counts twice.
    assert!(service.interrupt().success());
    let (service, address) = start(dir.path());
    assert!(order(&address, "coffee"));
    until(2, || total(&address, "coffee"));
    assert_eq!(total(&address, "tea"), counted);
    assert!(service.interrupt().success());
}

#[test]
fn what_is_no_order_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (_service, address) = start(dir.path());
    let request = ureq::post(format!("{address}/orders")).content_type("application/json");
    let error = request.send(r#"{"item":"tea"}"#).unwrap_err();
    assert!(matches!(error, ureq::Error::StatusCode(422)), "{error}");
}

#[test]
fn a_service_whose_log_is_not_that_of_its_totals_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (service, address) = start(dir.path());
    assert!(order(&address, "tea"));
    until(1, || total(&address, "tea"));
    assert!(service.interrupt().success());
    std::fs::remove_dir_all(dir.path().join("orders")).unwrap();
    let (service, _address) = start(dir.path());
    assert!(!service.finish().success(), "it counted orders of one log onto the totals of another");
}
