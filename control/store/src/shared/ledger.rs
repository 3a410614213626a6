//! The ledger in Redis.

use async_trait::async_trait;
use sideguard_types::time::Timestamp;

use super::Shared;
use super::redis_server::{key, number, odd_answer};
use crate::error::StoreError;
use crate::key::Key;
use crate::ledger::{
    Balance, Hold, LeaseId, Ledger, Line, MOST_EXPIRED, Standing, Turn, check, check_turn, other_lines,
};

#[async_trait]
impl Ledger for Shared {
    async fn hold(&self, lease: &LeaseId, lines: &[Line], expires: Timestamp) -> Result<Hold, StoreError> {
        let lines = check(lines)?;
        let redis = self.redis()?;
        let mut arguments = vec![lease.0.to_string(), expires.0.to_string()];
        for line in lines {
            let amounts = [line.limit, line.want, line.least].map(|amount| amount.to_string());
            arguments.push(line.account.to_string());
            arguments.extend(amounts);
        }
        match redis.run(&redis.scripts.hold, &bytes(&arguments)).await?.as_slice() {
            [held, granted @ ..] if held == b"held" => Ok(Hold::Held { granted: numbers(granted)? }),
            [short, account, free] if short == b"short" => {
                Ok(Hold::Short { account: key(account)?, free: number(free)? })
            }
            [other] if other == b"other" => Err(other_lines(lease)),
            _ => Err(odd_answer()),
        }
    }

    async fn settle(&self, lease: &LeaseId, turn: &Turn) -> Result<Standing, StoreError> {
        check_turn(lease, &turn.spent, &turn.keep)?;
        let head = ["turn".to_owned(), turn.number.to_string(), turn.expires.0.to_string()];
        self.end_or_turn(lease, head, &turn.spent, &turn.keep).await
    }

    async fn close(&self, lease: &LeaseId, spent: &[u64]) -> Result<(), StoreError> {
        let keep = vec![0; spent.len()];
        check_turn(lease, spent, &keep)?;
        let head = ["close".to_owned(), String::new(), String::new()];
        self.end_or_turn(lease, head, spent, &keep).await.map(|_| ())
    }

    async fn expire(&self, now: Timestamp, limit: usize) -> Result<Vec<LeaseId>, StoreError> {
        let redis = self.redis()?;
        let arguments = [now.0.to_string(), limit.min(MOST_EXPIRED).to_string()];
        let leases = redis.run(&redis.scripts.expire, &bytes(&arguments)).await?;
        leases.iter().map(|lease| key(lease).map(LeaseId)).collect()
    }

    async fn balance(&self, accounts: &[Key]) -> Result<Vec<Balance>, StoreError> {
        let redis = self.redis()?;
        let arguments: Vec<&[u8]> = accounts.iter().map(|account| account.as_str().as_bytes()).collect();
        let answer = redis.run(&redis.scripts.balance, &arguments).await?;
        let balances = answer.chunks(2).map(|chunk| match chunk {
            [spent, held] => Ok(Balance { spent: number(spent)?, held: number(held)? }),
            _ => Err(odd_answer()),
        });
        balances.collect()
    }

    async fn forget(&self, account: &Key) -> Result<bool, StoreError> {
        let redis = self.redis()?;
        let answer = redis.run(&redis.scripts.forget, &[account.as_str().as_bytes()]).await?;
        Ok(answer.first().is_some_and(|gone| gone == b"1"))
    }
}

impl Shared {
    async fn end_or_turn(
        &self,
        lease: &LeaseId,
        head: [String; 3],
        spent: &[u64],
        keep: &[u64],
    ) -> Result<Standing, StoreError> {
        let redis = self.redis()?;
        let mut arguments = vec![lease.0.to_string()];
        arguments.extend(head);
        for (spent, keep) in spent.iter().zip(keep) {
            arguments.extend([spent.to_string(), keep.to_string()]);
        }
        match redis.run(&redis.scripts.settle, &bytes(&arguments)).await?.as_slice() {
            [gone] if gone == b"gone" => Ok(Standing::Gone),
            [open, turn, held @ ..] if open == b"open" => {
                Ok(Standing::Open { turn: number(turn)?, held: numbers(held)? })
            }
            [beyond, account, held] if beyond == b"beyond" => {
                Err(StoreError::Beyond { account: key(account)?, held: number(held)? })
            }
            [other] if other == b"other" => Err(other_lines(lease)),
            _ => Err(odd_answer()),
        }
    }
}

fn bytes(arguments: &[String]) -> Vec<&[u8]> {
    arguments.iter().map(String::as_bytes).collect()
}

fn numbers(answers: &[Vec<u8>]) -> Result<Vec<u64>, StoreError> {
    answers.iter().map(|answer| number(answer)).collect()
}
