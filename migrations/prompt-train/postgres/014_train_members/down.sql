DROP TRIGGER give_an_owner ON trains;
DROP FUNCTION give_an_owner();
DROP TABLE train_members;
DROP FUNCTION keep_an_owner();
