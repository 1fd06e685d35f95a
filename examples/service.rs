//! A durable async service. An order is in the log, on the device, when its client is answered; a worker
//! follows the log and keeps totals in a store. Each order counts exactly once, whenever the process dies.
//!
//! ```sh
//! cargo add tailcask serde_json && cargo add axum && cargo add serde -F derive && cargo add tokio -F full
//! cargo run --bin service -- /tmp/shop 127.0.0.1:8080
//! curl -H 'content-type: application/json' -d '{"item":"tea","count":2}' localhost:8080/orders
//! curl localhost:8080/totals/tea
//! ```

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tailcask::{Batch, CommitLog, LogPosition, Store};

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Answer<T> = Result<T, StatusCode>;

/// Of an error a client learns that there was one, and the operator which.
fn failed(error: impl Into<Failure>) -> StatusCode {
    eprintln!("{}", error.into());
    StatusCode::INTERNAL_SERVER_ERROR
}

#[derive(Serialize, Deserialize)]
struct Order {
    item: String,
    count: u64,
}

struct Shop {
    orders: CommitLog,
    totals: Store,
    stopping: AtomicBool,
}

/// Appending copies to mapped memory. The sync is awaited: all clients that wait share one.
async fn place(State(shop): State<Arc<Shop>>, Json(order): Json<Order>) -> Answer<StatusCode> {
    let bytes = serde_json::to_vec(&order).map_err(failed)?;
    let position = shop.orders.append(&bytes).map_err(failed)?;
    shop.orders.wait_durable_async(position).await.map_err(failed)?;
    Ok(StatusCode::CREATED)
}

async fn total(State(shop): State<Arc<Shop>>, Path(item): Path<String>) -> Answer<String> {
    read_u64(&shop.totals, &format!("total/{item}")).map(|n| n.to_string()).map_err(failed)
}

fn read_u64(store: &Store, key: &str) -> Result<u64, Failure> {
    let value = store.get(key)?;
    Ok(value.map_or(Ok(0), |value| value[..].try_into().map(u64::from_le_bytes))?)
}

/// Follows the log from where it left off. A total and the new place are one batch: both or neither.
fn follow(shop: &Shop) -> Result<(), Failure> {
    let place = LogPosition::from_u64(read_u64(&shop.totals, "place")?);
    let mut reader = shop.orders.reader_from(place);
    while !shop.stopping.load(Relaxed) {
        let order: Order = match reader.wait_entry(Duration::from_millis(100))? {
            Some(entry) => serde_json::from_slice(&entry)?,
            None => continue,
        };
        shop.orders.wait_durable(reader.position())?; // count nothing that a power loss may take back
        let key = format!("total/{}", order.item);
        let total = read_u64(&shop.totals, &key)? + order.count;
        let mut batch = Batch::new();
        batch.put(key, total.to_le_bytes()).put("place", reader.position().as_u64().to_le_bytes());
        shop.totals.write(&batch)?;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: service DIR ADDRESS".into());
    };
    let orders = CommitLog::open(format!("{dir}/orders"))?;
    let totals = Store::open(format!("{dir}/totals"))?;
    let shop = Arc::new(Shop { orders, totals, stopping: AtomicBool::new(false) });
    let followed = shop.clone();
    let worker = std::thread::spawn(move || follow(&followed));
    let routes = Router::new().route("/orders", post(place)).route("/totals/{item}", get(total));
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let stop = async { tokio::signal::ctrl_c().await.expect("a handler of Ctrl-C") };
    axum::serve(listener, routes.with_state(shop.clone())).with_graceful_shutdown(stop).await?;
    shop.stopping.store(true, Relaxed);
    worker.join().expect("the worker does not panic")?;
    let shop = Arc::into_inner(shop).ok_or("a request is still running")?;
    shop.totals.close()?;
    shop.orders.close()?;
    Ok(())
}
