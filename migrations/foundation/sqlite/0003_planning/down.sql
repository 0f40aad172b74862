DROP TABLE planning_parked_ideas;
DROP TABLE planning_artifacts;
DROP TABLE planning_runs;
