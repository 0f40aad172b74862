-- What is said: a string, or the texts of a content's blocks, one a line. Whether something is cached is no part of it.
UPDATE api_requests
SET current_message_hash = encode(sha256(convert_to(concat(system.text, chr(29), said.whole), 'UTF8')), 'hex'),
    parent_message_hash = CASE WHEN said.total > 2 THEN encode(sha256(convert_to(concat(system.text, chr(29), said.earlier), 'UTF8')), 'hex') END
FROM (
    SELECT request_id, max(position) AS total,
        string_agg(line, chr(30) ORDER BY position) AS whole,
        string_agg(line, chr(30) ORDER BY position) FILTER (WHERE position <= how_many - 2) AS earlier
    FROM (
        SELECT request_id, position, jsonb_array_length(body -> 'messages') AS how_many,
            concat(message ->> 'role', ': ', CASE jsonb_typeof(message -> 'content')
                WHEN 'null' THEN NULL
                WHEN 'string' THEN message -> 'content' #>> '{}'
                WHEN 'array' THEN (
                    SELECT string_agg(CASE
                        WHEN jsonb_typeof(block) <> 'object' THEN block #>> '{}'
                        WHEN block ->> 'type' = 'text' THEN block ->> 'text'
                        ELSE (block - 'cache_control')::text END, E'\n' ORDER BY number)
                    FROM jsonb_array_elements(message -> 'content') WITH ORDINALITY AS blocks (block, number))
                ELSE (message -> 'content')::text END) AS line
        FROM api_requests, jsonb_array_elements(CASE jsonb_typeof(body -> 'messages') WHEN 'array' THEN body -> 'messages' END)
            WITH ORDINALITY AS listed (message, position)
        WHERE current_message_hash IS NOT NULL
    ) AS lines
    GROUP BY request_id
) AS said
CROSS JOIN LATERAL (
    SELECT CASE jsonb_typeof(own.body -> 'system')
        WHEN 'null' THEN NULL
        WHEN 'string' THEN own.body -> 'system' #>> '{}'
        WHEN 'array' THEN (
            SELECT string_agg(CASE
                WHEN jsonb_typeof(block) <> 'object' THEN block #>> '{}'
                WHEN block ->> 'type' = 'text' THEN block ->> 'text'
                ELSE (block - 'cache_control')::text END, E'\n' ORDER BY number)
            FROM jsonb_array_elements(own.body -> 'system') WITH ORDINALITY AS blocks (block, number))
        ELSE (own.body -> 'system')::text END AS text
    FROM api_requests own WHERE own.request_id = said.request_id
) AS system
WHERE api_requests.request_id = said.request_id;

ALTER TABLE api_requests DROP COLUMN system_hash;

COMMENT ON COLUMN api_requests.current_message_hash IS 'SHA-256 of the messages of this request';
