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
use std::time::Duration;
use tailcask::{Batch, Checkpoint, CommitLog, ReadError, Store};

type Failure = Box<dyn std::error::Error + Send + Sync>;

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

#[derive(Clone)] // a clone has handles on the same log and the same store
struct Shop {
    orders: CommitLog,
    totals: Store,
}

/// Appending copies to mapped memory. The sync is awaited: all clients that wait share one.
async fn place(shop: State<Shop>, Json(order): Json<Order>) -> Result<StatusCode, StatusCode> {
    let bytes = serde_json::to_vec(&order).map_err(failed)?;
    let position = shop.orders.append(&bytes).map_err(failed)?;
    shop.orders.wait_durable_async(position).await.map_err(failed)?;
    Ok(StatusCode::CREATED)
}

async fn show(shop: State<Shop>, Path(item): Path<String>) -> Result<String, StatusCode> {
    total(&shop, &item).map(|total| total.to_string()).map_err(failed)
}

fn total(shop: &Shop, item: &str) -> Result<u64, Failure> {
    let value = shop.totals.get(format!("total/{item}"))?;
    Ok(value.map_or(Ok(0), |value| value[..].try_into().map(u64::from_le_bytes))?)
}

/// Follows the log until it is closed. A total and the new place are one batch: both or neither.
fn follow(shop: &Shop) -> Result<(), Failure> {
    let Shop { orders, totals } = shop;
    let mut reader = match totals.get("place")?.as_deref() {
        Some(place) => orders.reader_from_checkpoint(&Checkpoint::from_bytes(place.try_into()?))?,
        None => orders.reader(),
    };
    loop {
        let Order { item, count } = match reader.wait_entry(Duration::MAX) {
            Err(ReadError::Closed) => return Ok(()),
            entry => serde_json::from_slice(&entry?.expect("it waits for one"))?,
        };
        orders.wait_durable(reader.position())?; // count nothing that a power loss may take back
        let total = total(shop, &item)?.saturating_add(count).to_le_bytes();
        let mut batch = Batch::new();
        batch.put(format!("total/{item}"), total).put("place", reader.checkpoint().to_bytes());
        totals.write(&batch)?;
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, dir, address] = &arguments[..] else { return Err("usage: service DIR ADDRESS".into()) };
    let orders = CommitLog::open(format!("{dir}/orders"))?;
    let totals = Store::open(format!("{dir}/totals"))?;
    let shop = Shop { orders, totals };
    let routes = Router::new().route("/orders", post(place)).route("/totals/{item}", get(show));
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("listening on {}", listener.local_addr()?);
    let server = axum::serve(listener, routes.with_state(shop.clone()));
    let server = server.with_graceful_shutdown(async { drop(tokio::signal::ctrl_c().await) });
    let followed = shop.clone();
    let mut worker = tokio::task::spawn_blocking(move || follow(&followed));
    tokio::select! {
        served = server.into_future() => served?,
        ended = &mut worker => return ended?, // it cannot go on
    }
    shop.orders.close()?; // which ends the worker
    worker.await??;
    Ok(shop.totals.close()?)
}
