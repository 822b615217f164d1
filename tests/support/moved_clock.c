/* Preloaded into a program: its clock is as many seconds ahead as the file CLOCK_AHEAD says at that moment, or, where
 * that says `at` and a time, stands there. How long things take, which it measures with another clock, stays as it is. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    double ahead = 0, time;
    FILE *said;

    if (syscall(SYS_clock_gettime, clock, now) != 0)
        return -1;
    if (clock == CLOCK_REALTIME && (said = fopen(getenv("CLOCK_AHEAD"), "r"))) {
        if (fscanf(said, "at %lf", &time) != 1) {
            if (fscanf(said, "%lf", &ahead) != 1)
                ahead = 0;
            time = now->tv_sec + now->tv_nsec / 1e9 + ahead;
        }
        fclose(said);
        now->tv_sec = (time_t)time;
        now->tv_nsec = (long)((time - (double)now->tv_sec) * 1e9);
    }
    return 0;
}

int gettimeofday(struct timeval *now, void *zone)
{
    struct timespec moved;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &moved);
    now->tv_sec = moved.tv_sec;
    now->tv_usec = moved.tv_nsec / 1000;
    return 0;
}
