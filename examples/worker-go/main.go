// A worker in Go that implements docs/worker-contract.md and passes tests/conformance.
//
// It handles the types of the map below, with one goroutine per message. It does not publish: the relay does.
package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	leaseSeconds = 15.0
	renewEvery   = 3 * time.Second
	fenceAfter   = 12 * time.Second // the lease less a margin for the round trip
	earlySeconds = 1.0
	concurrency  = 32
	leaseGone    = "DTQ01"
	drainTime    = 5 * time.Second
)

var errDrained = errors.New("the worker was stopped before it ended")
var errCancelled = errors.New("cancelled while it ran")
var errFenced = errors.New("the lease is gone")

type handler func(ctx context.Context, payload map[string]any, attempt int) (any, error)

var handlers = map[string]handler{
	"conform.ok.v1": func(_ context.Context, payload map[string]any, attempt int) (any, error) {
		return map[string]any{"attempt": attempt, "echo": payload["echo"]}, nil
	},
	"conform.fail.v1": func(context.Context, map[string]any, int) (any, error) { return nil, errors.New("as asked") },
	"conform.slow.v1": func(ctx context.Context, payload map[string]any, attempt int) (any, error) {
		seconds, _ := payload["seconds"].(float64)
		select {
		case <-time.After(time.Duration(seconds * float64(time.Second))):
			return map[string]any{"attempt": attempt}, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	},
}

type task struct {
	id, queueSet, queue, kind, payload string
	attempt, maxAttempts, timeout      int
	backoff                            *string
	suspected                          *float64 // for how long, in seconds; nil unless the task is a suspect
}

type worker struct {
	db      *pgxpool.Pool
	types   []string
	mu      sync.Mutex
	id      string // of the current lease; empty without a lease
	running map[string]context.CancelCauseFunc
	done    sync.WaitGroup
	alone   sync.RWMutex // read while a task runs beside others, written while a suspect runs alone
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	config, err := pgxpool.ParseConfig(os.Getenv("DB_DSN"))
	if err != nil {
		slog.Error("DB_DSN is not a connection string: set it", "error", err)
		os.Exit(2)
	}
	config.ConnConfig.RuntimeParams["enable_seqscan"] = "off"
	config.ConnConfig.RuntimeParams["statement_timeout"] = "5000"
	db, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		slog.Error("no pool", "error", err)
		os.Exit(1)
	}
	w := &worker{db: db, running: map[string]context.CancelCauseFunc{}}
	for kind := range handlers {
		w.types = append(w.types, kind)
	}
	leased := make(chan struct{})
	go w.keepLease(leased)
	for ctx.Err() == nil {
		if err := w.consume(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("not consuming", "error", err)
			time.Sleep(time.Second)
		}
	}
	w.drain()
	close(leased)
	w.exec("SELECT dtq_expire($1)", w.lease())
}

// keepLease registers and renews until done is closed; it fences the handlers when the lease cannot be relied on.
func (w *worker) keepLease(done chan struct{}) {
	validUntil := time.Now()
	for {
		asked := time.Now()
		if id := w.lease(); id == "" {
			id = newID()
			if w.exec("SELECT dtq_register($1, 'worker-go', '{default}', $2, $3, $4)", id, w.types, concurrency, leaseSeconds) {
				validUntil = asked.Add(fenceAfter)
				w.setLease(id)
				slog.Info("lease held", "id", id)
			}
		} else if renewed, cancelled, err := w.renew(id); err == nil && renewed {
			validUntil = asked.Add(fenceAfter)
			w.stop(cancelled, errCancelled)
		} else if err == nil || time.Now().After(validUntil) {
			slog.Error("lease lost", "id", id, "error", err)
			w.setLease("")
			w.stop(nil, errFenced)
			continue
		}
		select {
		case <-done:
			return
		case <-time.After(min(renewEvery, max(100*time.Millisecond, time.Until(validUntil)))):
		}
	}
}

func (w *worker) renew(id string) (renewed bool, cancelled []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), renewEvery)
	defer cancel()
	err = w.db.QueryRow(ctx, "SELECT renewed, cancel_ids::text[] FROM dtq_renew($1, $2, $3)", id, leaseSeconds, "{}").Scan(&renewed, &cancelled)
	return
}

// consume takes messages until ctx ends or the channel does.
func (w *worker) consume(ctx context.Context) error {
	port, err := strconv.Atoi(os.Getenv("RMQ_PORT"))
	if err != nil {
		return errors.New("RMQ_PORT is not a number: set it")
	}
	where := amqp.URI{Scheme: "amqp", Host: os.Getenv("RMQ_HOST"), Port: port, Vhost: os.Getenv("RMQ_VHOST"),
		Username: os.Getenv("RMQ_USER"), Password: os.Getenv("RMQ_PASS")}
	connection, err := amqp.Dial(where.String())
	if err != nil {
		return errors.New("RabbitMQ does not answer")
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Qos(concurrency, 0, false); err != nil {
		return err
	}
	messages, err := channel.ConsumeWithContext(ctx, "tasks.default", "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	for message := range messages {
		var envelope struct{ ID string }
		if json.Unmarshal(message.Body, &envelope) != nil || len(envelope.ID) != 36 {
			message.Ack(false)
			continue
		}
		w.done.Add(1)
		go func() {
			defer w.done.Done()
			w.handle(ctx, envelope.ID, message)
		}()
	}
	return errors.New("the broker ended the subscription")
}

func (w *worker) handle(ctx context.Context, id string, message amqp.Delivery) {
	worker := w.lease()
	if worker == "" {
		message.Nack(false, true)
		time.Sleep(time.Second)
		return
	}
	// Claim nothing while a suspect runs or waits to run alone.
	w.alone.RLock()
	one, claimed := w.claim(ctx, worker, id, message)
	if !claimed || one.suspected == nil {
		defer w.alone.RUnlock()
		if claimed {
			w.run(worker, one)
		}
		return
	}
	w.alone.RUnlock()
	w.alone.Lock()
	defer w.alone.Unlock()
	var started bool
	if ctx.Err() != nil || w.lease() != worker { // it never started: no attempt is counted
		w.exec("SELECT dtq_release($1, ARRAY[$2]::uuid[])", worker, id)
	} else if err := w.db.QueryRow(ctx, "SELECT dtq_run_alone($1, $2, $3)", worker, id, one.attempt).Scan(&started); err != nil {
		w.exec("SELECT dtq_release($1, ARRAY[$2]::uuid[])", worker, id)
	} else if started {
		w.run(worker, one)
	}
}

// claim wins the right to run a task, and acknowledges its message.
func (w *worker) claim(ctx context.Context, worker, id string, message amqp.Delivery) (one task, claimed bool) {
	err := w.db.QueryRow(context.Background(), `SELECT id::text, type, queue_set, queue, payload, attempts, max_attempts,
		timeout_seconds, backoff, suspected_seconds FROM dtq_claim($1, ARRAY[$2]::uuid[], $3, $4)`, worker, id, w.types, earlySeconds).Scan(
		&one.id, &one.kind, &one.queueSet, &one.queue, &one.payload, &one.attempt, &one.maxAttempts, &one.timeout, &one.backoff,
		&one.suspected)
	var refused *pgconn.PgError
	switch {
	case err == nil || err.Error() == "no rows in result set":
		message.Ack(false)
	case errors.As(err, &refused) && refused.Code == leaseGone:
		message.Nack(false, true)
	default: // the outcome is unknown: release the task once the statement can no longer be running
		message.Nack(false, true)
		time.AfterFunc(7*time.Second, func() { w.exec("SELECT dtq_release($1, ARRAY[$2]::uuid[])", worker, id) })
	}
	if err == nil && ctx.Err() != nil { // it never started: no attempt is counted
		w.exec("SELECT dtq_release($1, ARRAY[$2]::uuid[])", worker, id)
		return one, false
	}
	return one, err == nil
}

func (w *worker) run(worker string, one task) {
	ctx, cancel := context.WithCancelCause(context.Background())
	w.mu.Lock()
	w.running[one.id] = cancel
	w.mu.Unlock()
	bounded, end := context.WithTimeoutCause(ctx, time.Duration(one.timeout)*time.Second, fmt.Errorf("took longer than %d s", one.timeout))
	defer end()
	var payload map[string]any
	_ = json.Unmarshal([]byte(one.payload), &payload)
	result, err := handlers[one.kind](bounded, payload, one.attempt)
	w.mu.Lock()
	delete(w.running, one.id)
	w.mu.Unlock()
	if !errors.Is(err, errFenced) {
		w.finish(worker, one, result, err)
	}
}

// finish records the end and retries until there is an answer: the fence keeps a repetition from counting twice.
func (w *worker) finish(worker string, one task, result any, failure error) {
	status, delay, drained := "SUCCEEDED", 0.0, false
	var text, reason *string
	switch {
	case failure == nil:
		encoded, _ := json.Marshal(result)
		value := string(encoded)
		text = &value
	default:
		value := failure.Error()
		reason, status, delay = &value, "FAILED", delayOf(one)
		if errors.Is(failure, errCancelled) {
			status = "CANCELLED"
		} else if drained = errors.Is(failure, errDrained); drained || one.attempt < one.maxAttempts {
			status = "ENQUEUED"
		}
	}
	for until := time.Now().Add(fenceAfter); time.Now().Before(until); time.Sleep(500 * time.Millisecond) {
		if w.exec(`SELECT 1 FROM dtq_finish(ARRAY[$1]::uuid[], ARRAY[$2]::uuid[], ARRAY[$3]::int[], ARRAY[$4]::text[], ARRAY[$5]::text[],
			ARRAY[$6]::text[], ARRAY[$7]::float8[], '{0}', '{false}', ARRAY[$8]::bool[])`,
			worker, one.id, one.attempt, status, text, reason, delay, drained) {
			return
		}
	}
	slog.Error("an end is left to the reaper", "task", one.id)
}

// delayOf knows the list strategy only, which is all that a demonstration needs.
func delayOf(one task) float64 {
	policy := struct{ DelaysSeconds []float64 }{[]float64{5, 30, 120, 600, 3600}}
	if one.backoff != nil {
		_ = json.Unmarshal([]byte(*one.backoff), &policy)
	}
	return policy.DelaysSeconds[min(one.attempt, len(policy.DelaysSeconds))-1]
}

func (w *worker) drain() {
	ended := make(chan struct{})
	go func() { w.done.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(drainTime):
		w.stop(nil, errDrained)
		<-ended
	}
}

// stop ends the handlers of these tasks, or of all.
func (w *worker) stop(ids []string, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if ids == nil && !errors.Is(why, errCancelled) {
		for id := range w.running {
			ids = append(ids, id)
		}
	}
	for _, id := range ids {
		if cancel := w.running[id]; cancel != nil {
			cancel(why)
		}
	}
}

func (w *worker) exec(statement string, args ...any) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Second)
	defer cancel()
	_, err := w.db.Exec(ctx, statement, args...)
	if err != nil {
		slog.Warn("Postgres does not answer", "error", err)
	}
	return err == nil
}

func (w *worker) lease() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.id
}

func (w *worker) setLease(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.id = id
}

func newID() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
