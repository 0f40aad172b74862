DROP TABLE webhook_destinations;
