-- A domain's account is the one that its other requests name. Where they name several, nothing is guessed.
UPDATE api_requests
SET account_id = known.account_id
FROM (
    SELECT domain, min(account_id) AS account_id FROM api_requests
    WHERE account_id IS NOT NULL
    GROUP BY domain HAVING min(account_id) = max(account_id)
) known
WHERE api_requests.domain = known.domain AND api_requests.account_id IS NULL;

CREATE INDEX IF NOT EXISTS idx_requests_account_timestamp ON api_requests (account_id, timestamp);

ANALYZE api_requests;
